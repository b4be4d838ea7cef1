"""Values that change with the iteration: learning rate, weight decay, momentum, temperature, loss weights."""
