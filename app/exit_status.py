"""What the commands end with; 0 is done."""

ANSWER_IS_NO = 1
WRONG_USE = 2
