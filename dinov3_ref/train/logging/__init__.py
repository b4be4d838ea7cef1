"""What a training run records: metrics, evaluations, TensorBoard, progress."""
