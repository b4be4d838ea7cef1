"""Images: find, open and preprocess them."""
