"""Metrics files, progress, TensorBoard, throughput, and periodic evaluation of the teacher."""
