"""Every task of reasoning-gym 0.1.25, classified by what its scorer does with the text it is given.

All 106 scorers were read, and what they call. Eleven hand text to `eval` or to sympy's `parse_expr`, which evaluates it
as Python: the answer of a model in nine of them, the gold answer or the metadata of a row in the others. A task that
stands in none of the sets below is refused, so a new version of the package brings nothing that nobody has read.
"""

READ_VERSION = "0.1.25"
"""Version of the package whose scorers were read."""

SCORER_EVALUATES_NOTHING = frozenset(
    """
    ab acre advanced_geometry aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation boxnet
    caesar_cipher calendar_arithmetic chain_sum circuit_logic codeio coin_flip color_cube_rotation count_bits
    count_primes course_schedule cryptarithm decimal_arithmetic decimal_chain_sum dice emoji_mystery
    family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd
    graph_color group_anagrams gsm_symbolic isomorphic_strings jugs kakurasu knight_swap knights_knaves largest_island
    lcm leg_counting letter_counting letter_jumble list_functions mahjong_puzzle manipulate_matrix maze mini_sudoku
    modulo_grid needle_haystack number_filtering number_format number_sequence palindrome_generation
    palindrome_partitioning path_star polynomial_equations pool_matrix power_function prime_factorization products
    propositional_logic quantum_lock ransom_note rearc rectangle_count rotate_matrix rotten_oranges rubiks_cube
    rush_hour self_reference sentence_reordering shortest_path simple_equations simple_geometry sokoban spell_backward
    string_manipulation string_splitting string_synthesis sudoku survo syllogism time_intervals tower_of_hanoi tsumego
    word_ladder word_sequence_reversal word_sorting zebra_puzzles
    """.split()  # noqa: SIM905 - a table of names
)
"""Graded by the package's own scorer: it compares, splits and counts text, and reads numbers and JSON."""

SCORED_BY_GRAMMAR = frozenset(
    """
    binary_matrix bitwise_arithmetic complex_arithmetic countdown intermediate_integration n_queens number_sorting
    polynomial_multiplication puzzle24 simple_integration spiral_matrix string_insertion
    """.split()  # noqa: SIM905 - a table of names
)
"""Graded by a scorer of ours that reads the same answers by a grammar (`pipeline.rewards.verifiers.gym_scorers`).

The package evaluates the answer, or for `bitwise_arithmetic` and `number_sorting` the row. Of `complex_arithmetic` it
takes `nan` for right.
"""

REFUSED = {
    "composite": "it hands the answer to whichever other task the row names; declare that task instead",
}
"""Not graded, and why."""


def refusal(task: str) -> str | None:
    """Why answers of a task are not graded, or None when they are."""
    if task in SCORER_EVALUATES_NOTHING or task in SCORED_BY_GRAMMAR:
        return None
    unread = f"nobody has read its scorer, which may run the answer as code (the scorers of {READ_VERSION} were read)"
    return REFUSED.get(task, unread)
