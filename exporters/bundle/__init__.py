"""From a checkpoint to a judged bundle."""
