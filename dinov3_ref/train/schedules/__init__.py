"""Schedules: learning rate, weight decay, momentum, teacher temperature, loss weights."""
