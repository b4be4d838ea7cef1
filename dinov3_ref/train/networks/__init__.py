"""Student, EMA teacher, distillation teacher and Gram teacher of a training run."""
