"""The networks of a training run: student, teachers, EMA and Gram teacher."""
