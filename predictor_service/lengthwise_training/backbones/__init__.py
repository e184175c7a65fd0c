"""What reads the prompt: encoders, pretrained weights, hidden states."""
