"""The toy data set of tests, the demo and the recipe toy_cpu."""
