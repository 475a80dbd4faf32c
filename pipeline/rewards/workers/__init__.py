"""The processes that grade, each killable and confined."""
