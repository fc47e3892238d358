"""The search for inputs whose update agrees with the observed one: the loop and its parts."""
