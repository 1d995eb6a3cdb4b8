"""The executable specification, one object per request, and the engines' own schedulers as classes."""
