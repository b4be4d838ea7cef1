"""Files and folders that are being written: hidden names, leftovers of killed processes, private folders."""
