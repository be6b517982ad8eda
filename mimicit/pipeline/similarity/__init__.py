"""Which triplets are alike, by text and by picture, for the strategies that ask for it."""
