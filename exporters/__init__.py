"""Export steps: turn a model into a bundle."""

import dinodeploy as dinodeploy  # turns off telemetry before a package that reports is imported
