"""What a chat asks to be reminded of before it is answered."""
