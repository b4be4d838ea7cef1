"""DEIMv2 with a DINOv3 backbone: a real-time detector (arXiv:2509.20787), inference path only."""
