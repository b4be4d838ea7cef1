"""Fine-tuning: LoRA or the last blocks of a backbone, together with a head, on labelled images."""
