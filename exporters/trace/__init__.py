"""From a model to a torch.export program: meta copy, folded constants, custom ops for RoPE and attention."""
