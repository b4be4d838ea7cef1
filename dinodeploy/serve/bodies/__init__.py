"""Bodies: the images in requests (`requests.py`), the numbers in answers (`answers.py`)."""
