"""dinodeploy inside other libraries: LanceDB, PyTorch and scikit-learn. Import the module that you need."""
