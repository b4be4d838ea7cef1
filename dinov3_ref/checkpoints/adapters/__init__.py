"""PEFT adapters: read a LoRA or DoRA adapter and merge it into the weights that it was trained on."""
