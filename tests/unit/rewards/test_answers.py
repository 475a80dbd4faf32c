"""What counts as the same answer: our own cases for every kind that a verifier is talked into, or refuses."""

import itertools
import logging

import pytest

from pipeline.config.rewards import RewardConventions, RewardsConfig
from pipeline.rewards.answers.compare import compare, fault, value_key
from pipeline.rewards.answers.numbers import read_number
from pipeline.rewards.answers.symbols import same_equation
from pipeline.rewards.golds import first_different
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import Conventions, GradeItem, RewardLabel
from pipeline.rewards.verifiers import exact_integer, get_verifier, math_verify, r1_format
from tests.support.answer_variants import hard_negatives, spellings

logging.getLogger("math_verify").setLevel(logging.ERROR)

TWENTY_FIVE = [
    "25.",
    "25.0",
    "25^\\circ",
    "25\u00b0",
    "\\text{25}",
    "\\mathrm{25}",
    "25 \\text{ dollars}",
    "\\$25",
    "25 dollars",
    "\\text{There are }25\\text{ ways}",
    "x = 25",
    "x=25.",
    "\\textbf{25}",
    "\\mathbf{25}",
    "25\\text{ units}",
    "25\\,\\text{cm}",
    "25~\\text{cm}^2",
    "25 \\text{ square units}",
    "25\\,\\mathrm{m/s}",
    "25 km/h",
    "(25)",
    "{25}",
    "+25",
    "5^2",
    "\\frac{50}{2}",
    "50/2",
    "20+5",
    "25 \\text{ cm}^{3}",
    "n=25",
    "\\angle A = 25^\\circ",
    "f(3)=25",
    "a+b=25",
    "24+1=25",
    "25_{10}",
    "\\text{Answer: }25",
    "25\\checkmark",
    "\\displaystyle 25",
    "\\large 25",
    "25\\ ",
    "25\\quad",
    "\\sqrt{625}",
    "25 \\text{ people}",
    "The answer is 25",
    "25 (units)",
    "\\text{Total: } 25",
    "\\text{Area} = 25",
    "25\\ \\text{miles per hour}",
    "2.5\\times10^1",
    "2.5 \\times 10^{1}",
    "2.5e1",
    "\\color{red}{25}",
    "\\underline{25}",
    "\\boxed{25}",
    "25\\text{ days}",
    "\\mathbf{25}.",
    "m+n=25",
    "25\\,\\text{ cm}",
]
"""Answers that are 25."""
OTHERS = [
    "24 25",
    "24 \\quad 25",
    "24 \\\\ 25",
    "24 | 25",
    "24 \\to 25",
    "25?",
    "~24, 25",
    "25+",
    "\\geq 25",
    "25 \\pm 1",
    "between 24 and 26",
    "25 (maybe 26)",
    "\\text{25 or so}",
    "24/25",
    "24:25",
    "25!",
    "25\\ldots 30",
    "25-30",
    "25--30",
    "25 \\sim 30",
    "\\approx 24",
    "25x",
    "x^{25}",
    "25^2",
    "25 \\cdot 10^3",
    "25k",
    "25 thousand",
    "25\\text{ hundred}",
    "-25",
    "(25,26)",
    "[25,26]",
    "25 \\lor 26",
    "25 \\vee 26",
    "25 or\\ 26",
    "25 / 26",
    "25 OR 26",
    "25 | 0",
    "\\{25\\} \\cup \\{26\\}",
    "25 \\text{ if } x>0",
    "\\text{either }25",
    "\\text{all but }25",
    "25 \\land 26",
    "\\begin{cases}25\\\\26\\end{cases}",
    "\\begin{pmatrix}25\\\\26\\end{pmatrix}",
    "25\\text{ or }26\\text{ or }27",
    "\\text{25, 26}",
    "\\frac{25}{26}",
    "25\\, , 26",
    "x=25, y=26",
    "x = 25 \\text{ or } x=24",
    "25 \\& 26",
    "25 and 26",
    "25 & 26",
    "25_8",
    "25_{16}",
    "25e1",
    "25E3",
    "2 5",
    "2\\,5",
    "0.25",
    "25\\%",
    "\\neq 25",
    "\\ne 25",
    "!= 25",
    "x \\ne 25",
    "\\not= 25",
    "<25",
    "x<25",
    "25 < x",
    "\\text{not 25}",
    "\\overline{25}",
    "\\sqrt{25}",
    "25\\pi",
    "25i",
    "|25|x",
    "25\\degree\\text{F or }26",
    "\\text{at most }25",
    "no more than 25",
    "25 \\text{ is wrong, } 26",
    "26 \\text{ not } 25",
    "\\text{The answer is not }25",
    "24=25",
    "25=26",
    "25 \\approx 30",
    "25 \\neq 26",
    "25 \\le 26",
    "\\infty",
    "",
    "\\ ",
    "25 \\text{ percent}",
    "1/25",
    "(25)(2)",
    "25 \\mid 50",
    "\\{24,25\\}",
    "24,\\,25",
    "\\underline{24} 25",
    "\\cancel{24} 25 26",
    "25 \\times 1 + 1",
]
"""Answers that are not 25, or not only."""
SAME = [
    ("e^{i\\pi}", "-1"),
    ("i^2", "-1"),
    ("1\\,234", "1234"),
    ("1 234", "1234"),
    ("1{,}234", "1234"),
    ("1,234.00", "1234"),
    ("$1,234", "1234"),
    ("1,234 \\text{ dollars}", "1234"),
    ("x \\le 3", "(-\\infty,3]"),
    ("x > 2", "(2,\\infty)"),
    ("3 \\ge x", "(-\\infty, 3]"),
    ("-2 < x \\leq 7", "(-2,7]"),
    ("x\\in(-2,7]", "(-2,7]"),
    ("(2,\\infty)", "x>2"),
    ("x < -1 \\text{ or } x > 3", "(-\\infty,-1)\\cup(3,\\infty)"),
    ("(-\\infty,-1)\\cup(3,\\infty)", "x<-1 \\text{ or } x>3"),
    ("1 and 2", "1,2"),
    ("x=1 \\text{ or } x=2", "1,2"),
    ("x = 1, 2", "1,2"),
    ("x_1=1, x_2=2", "1,2"),
    ("\\pm 3", "3,-3"),
    ("1 + \\sqrt2, 1-\\sqrt2", "1\\pm\\sqrt2"),
    ("25.0\\%", "25\\%"),
    ("0.25", "25\\%"),
    ("25", "25\\%"),
    ("\\frac{1}{4}", "25\\%"),
    ("5 \\text{ hours}", "5\\text{ hrs}"),
    ("5 cm", "5\\text{ centimeters}"),
    ("5 ft", "5\\text{ feet}"),
    ("\\frac{\\pi}{2} \\approx 1.57", "\\frac{\\pi}{2}"),
    ("1.5707963", "\\frac{\\pi}{2}"),
    ("y=2x+3", "2x+3"),
    ("2x+3", "y=2x+3"),
    ("2x - y + 3=0", "y=2x+3"),
    ("52_8", "52_{8}"),
    ("52", "52_8"),
    ("\\begin{bmatrix}1\\\\2\\end{bmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("\\langle 1,2\\rangle", "(1,2)"),
    ("1:2", "1:2"),
    ("\\frac{1}{2}", "1:2"),
    ("\\text{C}", "\\text{(C)}"),
    ("C", "(C)"),
    ("\\text{No}", "no"),
    ("no solution", "\\text{no solution}"),
    ("\\emptyset", "\\varnothing"),
    ("\\{ \\}", "\\emptyset"),
    ("3\\sqrt{13}", "\\sqrt{117}"),
    ("\\dfrac{3}{56}", "\\frac{3}{56}"),
    ("-\\dfrac{3}{56}", "\\frac{-3}{56}"),
    ("2^{1009}", "2^{1009}"),
    ("4.5 \\times 10^{33} \\text{ erg/s}", "4.5e33"),
    ("10^{33}\\times 4.5", "4.5e33"),
    ("4.5 \\cdot 10^{33}\\;\\text{erg}", "4.5e33"),
    ("4.50 \\times 10^{33}", "4.5e33"),
]
"""(answer, gold)"""
SAME_AS_GOLDS = [
    ("Evelyn", "\\text{Evelyn}"),
    ("evelyn", "\\text{Evelyn}"),
    ("\\textbf{Evelyn}", "\\text{Evelyn}"),
    ("\\mathrm{Evelyn}", "\\text{Evelyn}"),
    ("\\text{Evelyn.}", "\\text{Evelyn}"),
    ("C", "\\text{(C)}"),
    ("\\text{C}", "\\text{(C)}"),
    ("(C)", "\\text{(C)}"),
    ("\\textbf{(C)}", "\\text{(C)}"),
    ("\\mathrm{(C)}", "\\text{(C)}"),
    ("\\text{(C) }", "\\text{(C)}"),
    ("c", "\\text{(C)}"),
    ("864", "864 \\mbox{ inches}^2"),
    ("864 \\text{ in}^2", "864 \\mbox{ inches}^2"),
    ("864 \\text{ square inches}", "864 \\mbox{ inches}^2"),
    ("864 in^2", "864 \\mbox{ inches}^2"),
    ("864\\ \\text{sq in}", "864 \\mbox{ inches}^2"),
    ("864 square inches", "864 \\mbox{ inches}^2"),
    ("864\\,\\text{in}^{2}", "864 \\mbox{ inches}^2"),
    ("864\\text{ in}^2.", "864 \\mbox{ inches}^2"),
    ("90", "90^\\circ"),
    ("90\u00b0", "90^\\circ"),
    ("90 degrees", "90^\\circ"),
    ("90^{\\circ}", "90^\\circ"),
    ("90\\text{ degrees}", "90^\\circ"),
    ("90 \\degree", "90^\\circ"),
    ("x=90^\\circ", "90^\\circ"),
    ("90.0", "90^\\circ"),
    ("\\angle ABC = 90^\\circ", "90^\\circ"),
    ("18.90 dollars", "\\$18.90"),
    ("18.9", "\\$18.90"),
    ("\\$18.9", "\\$18.90"),
    ("$18.90", "\\$18.90"),
    ("18.90\\text{ USD}", "\\$18.90"),
    ("\\text{\\$}18.90", "\\$18.90"),
    ("\\sqrt 51", "\\sqrt{51}"),
    ("sqrt(51)", "\\sqrt{51}"),
    ("51^{1/2}", "\\sqrt{51}"),
    ("51^{0.5}", "\\sqrt{51}"),
    ("\u221a51", "\\sqrt{51}"),
    ("\\sqrt{51.0}", "\\sqrt{51}"),
    ("7.1414284", "\\sqrt{51}"),
    ("\\sqrt{3}\\sqrt{17}", "\\sqrt{51}"),
    ("\\sqrt{3}\\cdot\\sqrt{17}", "\\sqrt{51}"),
    ("+\\sqrt{51}", "\\sqrt{51}"),
    ("51^{\\frac12}", "\\sqrt{51}"),
    ("\\sqrt{(51)}", "\\sqrt{51}"),
    ("14/3", "\\frac{14}{3}"),
    ("4\\frac{2}{3}", "\\frac{14}{3}"),
    ("4 2/3", "\\frac{14}{3}"),
    ("4\\tfrac23", "\\frac{14}{3}"),
    ("\\frac{-14}{-3}", "\\frac{14}{3}"),
    ("4.6666667", "\\frac{14}{3}"),
    ("4+\\frac23", "\\frac{14}{3}"),
    ("\\frac{14.0}{3}", "\\frac{14}{3}"),
    ("14 / 3", "\\frac{14}{3}"),
    ("\\frac{28}{6}", "\\frac{14}{3}"),
    ("\\frac{14}3", "\\frac{14}{3}"),
    ("{14}/{3}", "\\frac{14}{3}"),
    ("\\left(\\frac{14}{3}\\right)", "\\frac{14}{3}"),
    ("(14)/(3)", "\\frac{14}{3}"),
    ("\\frac{ 14 }{ 3 }", "\\frac{14}{3}"),
    ("4\\ \\frac{2}{3}", "\\frac{14}{3}"),
    ("14\\div 3", "\\frac{14}{3}"),
    ("4\\dfrac{2}{3}", "\\frac{14}{3}"),
    ("14 \\over 3", "\\frac{14}{3}"),
    ("288\u03c0", "288 \\pi"),
    ("288 \\cdot \\pi", "288 \\pi"),
    ("288*pi", "288 \\pi"),
    ("904.7786842", "288 \\pi"),
    ("288\\times\\pi", "288 \\pi"),
    ("\\pi \\cdot 288", "288 \\pi"),
    ("288\\pi\\text{ cm}^3", "288 \\pi"),
    ("(288)\\pi", "288 \\pi"),
    ("144 \\cdot 2\\pi", "288 \\pi"),
    ("2.88\\times 10^2 \\pi", "288 \\pi"),
    ("-5i+6", "6 - 5i"),
    ("6 - 5 i", "6 - 5i"),
    ("6-5\\mathrm{i}", "6 - 5i"),
    ("6-5*i", "6 - 5i"),
    ("(6-5i)", "6 - 5i"),
    ("6 + -5i", "6 - 5i"),
    (
        "\\begin{bmatrix} -1/3 \\\\ 2/3 \\\\ 5/3 \\end{bmatrix}",
        "\\begin{pmatrix} -1/3 \\\\ 2/3 \\\\ 5/3 \\end{pmatrix}",
    ),
    (
        "\\begin{pmatrix} -\\frac13 \\\\ \\frac23 \\\\ \\frac53 \\end{pmatrix}",
        "\\begin{pmatrix} -1/3 \\\\ 2/3 \\\\ 5/3 \\end{pmatrix}",
    ),
    ("\\begin{pmatrix}-1/3\\\\2/3\\\\5/3\\end{pmatrix}", "\\begin{pmatrix} -1/3 \\\\ 2/3 \\\\ 5/3 \\end{pmatrix}"),
    (
        "\\left( \\begin{array}{c} -1/3 \\\\ 2/3 \\\\ 5/3 \\end{array}\\right)",
        "\\begin{pmatrix} -1/3 \\\\ 2/3 \\\\ 5/3 \\end{pmatrix}",
    ),
    ("\\frac13\\begin{pmatrix} -1\\\\2\\\\5\\end{pmatrix}", "\\begin{pmatrix} -1/3 \\\\ 2/3 \\\\ 5/3 \\end{pmatrix}"),
    ("1+\\sqrt5,1-\\sqrt5,-2", "\\{1\\pm\\sqrt{5},-2\\}"),
    ("-2, 1\\pm\\sqrt{5}", "\\{1\\pm\\sqrt{5},-2\\}"),
    ("\\{-2,1-\\sqrt5,1+\\sqrt5\\}", "\\{1\\pm\\sqrt{5},-2\\}"),
    ("x=-2, 1+\\sqrt5, 1-\\sqrt5", "\\{1\\pm\\sqrt{5},-2\\}"),
    ("x=1,-2", "1,-2"),
    ("x = 1, x=-2", "1,-2"),
    ("x=1 \\text{ or } x=-2", "1,-2"),
    ("x_1=1, x_2=-2", "1,-2"),
    ("1 \\text{ and } -2", "1,-2"),
    ("-2, 1", "1,-2"),
    ("\\{1,-2\\}", "1,-2"),
    ("1\\text{ or }-2", "1,-2"),
    ("x\\in\\{1,-2\\}", "1,-2"),
    ("x = -2\\text{ or }1", "1,-2"),
    ("1,\\, -2", "1,-2"),
    ("1;-2", "1,-2"),
    ("1, \\quad -2", "1,-2"),
    ("x = 1 \\quad\\text{or}\\quad x=-2", "1,-2"),
    ("-2 \\text{ and } 1", "1,-2"),
    ("52_{8}", "52_8"),
    ("(52)_8", "52_8"),
    ("52_{\\text{8}}", "52_8"),
    ("52 \\text{ (base 8)}", "52_8"),
    ("52 \\text{ base 8}", "52_8"),
    ("52", "52_8"),
    ("(52)_{8}", "52_8"),
    ("52_{\\,8}", "52_8"),
    ("52_8.", "52_8"),
    ("10080", "10,\\!080"),
    ("10,080", "10,\\!080"),
    ("10 080", "10,\\!080"),
    ("10080.0", "10,\\!080"),
    ("10080.00", "10,\\!080"),
    ("10.08 \\times 10^3", "10,\\!080"),
    ("1.008e4", "10,\\!080"),
    ("10\\,080", "10,\\!080"),
    ("10{,}080", "10,\\!080"),
    ("10,080 \\text{ ways}", "10,\\!080"),
    ("\\text{10080}", "10,\\!080"),
    ("\\frac{-3}{8}", "-\\frac{3}{8}"),
    ("\\frac{3}{-8}", "-\\frac{3}{8}"),
    ("-3/8", "-\\frac{3}{8}"),
    ("-0.375", "-\\frac{3}{8}"),
    ("\u2212\\frac{3}{8}", "-\\frac{3}{8}"),
    ("-.375", "-\\frac{3}{8}"),
    ("-\\frac38", "-\\frac{3}{8}"),
    ("-(3/8)", "-\\frac{3}{8}"),
    ("- \\frac{3}{8}", "-\\frac{3}{8}"),
    ("\u22123/8", "-\\frac{3}{8}"),
    ("\\left(3,4\\right]", "(3,4]"),
    ("3<x\\le4", "(3,4]"),
    ("3 < x \\leq 4", "(3,4]"),
    ("x\\in(3,4]", "(3,4]"),
    ("(3, 4]", "(3,4]"),
    ("4 \\ge x > 3", "(3,4]"),
    ("x<2 \\text{ or } x>3", "(-\\infty, 2) \\cup (3, \\infty)"),
    ("(-\\infty,2)\\cup(3,+\\infty)", "(-\\infty, 2) \\cup (3, \\infty)"),
    ("(3,\\infty)\\cup(-\\infty,2)", "(-\\infty, 2) \\cup (3, \\infty)"),
    ("x \\in (-\\infty,2)\\cup(3,\\infty)", "(-\\infty, 2) \\cup (3, \\infty)"),
    ("(-\u221e,2)\u222a(3,\u221e)", "(-\\infty, 2) \\cup (3, \\infty)"),
    ("x<2, x>3", "(-\\infty, 2) \\cup (3, \\infty)"),
    ("x < 2 or x > 3", "(-\\infty, 2) \\cup (3, \\infty)"),
    ("2x+3", "y = 2x + 3"),
    ("y=3+2x", "y = 2x + 3"),
    ("y = 2x+3.", "y = 2x + 3"),
    ("2x+3=y", "y = 2x + 3"),
    ("y - 2x = 3", "y = 2x + 3"),
    ("[-2,7]", "x \\in [-2,7]"),
    ("-2\\le x\\le 7", "x \\in [-2,7]"),
    ("\\left[-2,7\\right]", "x \\in [-2,7]"),
    ("-2 \\leq x \\leq 7", "x \\in [-2,7]"),
    ("-q+p", "p - q"),
    ("p-q", "p - q"),
    ("(p-q)", "p - q"),
    ("p + (-q)", "p - q"),
    ("(3,\\pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)"),
    ("(3, \\frac{\\pi}{2})", "\\left( 3, \\frac{\\pi}{2} \\right)"),
    ("\\left(3,\\tfrac{\\pi}{2}\\right)", "\\left( 3, \\frac{\\pi}{2} \\right)"),
    ("(3, 0.5\\pi)", "\\left( 3, \\frac{\\pi}{2} \\right)"),
    ("3, \\frac{\\pi}{2}", "\\left( 3, \\frac{\\pi}{2} \\right)"),
    ("(b+2)(a+5)", "(a+5)(b+2)"),
    ("ab+2a+5b+10", "(a+5)(b+2)"),
    ("(5+a)(2+b)", "(a+5)(b+2)"),
    ("(a+5)\\cdot(b+2)", "(a+5)(b+2)"),
    ("(a+5)\\times(b+2)", "(a+5)(b+2)"),
    ("(x-1)(x^4+x^2+1)", "x^5 - x^4 + x^3 - x^2 + x - 1"),
    ("x^{5}-x^{4}+x^{3}-x^{2}+x-1", "x^5 - x^4 + x^3 - x^2 + x - 1"),
    ("-1+x-x^2+x^3-x^4+x^5", "x^5 - x^4 + x^3 - x^2 + x - 1"),
    ("\\cot(x)", "\\cot x"),
    ("\\frac{\\cos x}{\\sin x}", "\\cot x"),
    ("\\frac{1}{\\tan x}", "\\cot x"),
    ("cot x", "\\cot x"),
    ("\\cot{x}", "\\cot x"),
    ("-5x+7y-11z-4=0", "5x - 7y + 11z + 4 = 0"),
    ("5x-7y+11z=-4", "5x - 7y + 11z + 4 = 0"),
    ("5x - 7y + 11z + 4=0", "5x - 7y + 11z + 4 = 0"),
    ("8\\%", "8 \\%"),
    ("8%", "8 \\%"),
    ("0.08", "8 \\%"),
    ("8 percent", "8 \\%"),
    ("8\\text{ percent}", "8 \\%"),
    ("\\frac{2}{25}", "8 \\%"),
    ("8", "8 \\%"),
    ("17.5\\%", "17.5%"),
    ("17.50\\%", "17.5%"),
    ("0.175", "17.5%"),
    ("17.5", "17.5%"),
    ("17.5 percent", "17.5%"),
    ("\\frac{7}{40}", "17.5%"),
    ("5.4", "5.4 \\text{ cents}"),
    ("5.4\\text{ cents}", "5.4 \\text{ cents}"),
    ("5.4 cents", "5.4 \\text{ cents}"),
    ("5.40", "5.4 \\text{ cents}"),
    ("\\frac{270}{7}", "\\frac{270}7\\text{ degrees}"),
    ("\\frac{270}{7}^\\circ", "\\frac{270}7\\text{ degrees}"),
    ("\\frac{270}{7}\\text{ degrees}", "\\frac{270}7\\text{ degrees}"),
    ("270/7", "\\frac{270}7\\text{ degrees}"),
    ("38\\frac{4}{7}", "\\frac{270}7\\text{ degrees}"),
    ("\\left(\\frac{270}{7}\\right)^\\circ", "\\frac{270}7\\text{ degrees}"),
    ("2^{1009}", "2^{1009}"),
    ("2 \\cdot 2^{1008}", "2^{1009}"),
    ("4^{504}\\cdot 2", "2^{1009}"),
    ("\\frac{(2n)!}{(n!)^2}", "\\binom{2n}{n}"),
    ("\\dbinom{2n}{n}", "\\binom{2n}{n}"),
    ("\\binom{2 n}{n}", "\\binom{2n}{n}"),
    ("1+\\lfloor \\log_2 n\\rfloor", "\\left\\lfloor\\log _{2} n\\right\\rfloor+1"),
    ("\\lfloor\\log_2(n)\\rfloor+1", "\\left\\lfloor\\log _{2} n\\right\\rfloor+1"),
    ("8 \\cdot 7^{-1/3}", "\\frac{8}{\\sqrt[3]{7}}"),
    ("\\frac{8\\sqrt[3]{49}}{7}", "\\frac{8}{\\sqrt[3]{7}}"),
    ("f(x)=x, f(x)=2-x", "f(x)=x$,$f(x)=2-x"),
    ("x, 2-x", "f(x)=x$,$f(x)=2-x"),
    ("f(x) = 2-x \\text{ or } f(x)=x", "f(x)=x$,$f(x)=2-x"),
    ("f(x)=x \\text{ and } f(x)=2-x", "f(x)=x$,$f(x)=2-x"),
    ("k\\ge 2", "k \\geqslant 2"),
    ("k \\geq 2", "k \\geqslant 2"),
    ("[2,\\infty)", "k \\geqslant 2"),
    ("2\\le k", "k \\geqslant 2"),
    ("k\u22652", "k \\geqslant 2"),
    (
        "\\frac{\\pi}{6}+\\pi k, \\frac{\\pi}{3}+\\pi k,\\frac{2\\pi}{3}+\\pi k,\\frac{5\\pi}{6}+\\pi k",
        "x=\\frac{1}{6} \\pi+\\pi k, \\frac{1}{3} \\pi+\\pi k, \\frac{2}{3} \\pi+\\pi k, \\frac{5}{6} \\pi+\\pi k",
    ),
    ("(4,5,7),(1,8,19),(2,7,13)", "(1,8,19), (2,7,13), (4,5,7)"),
    ("\\{(1,8,19), (2,7,13), (4,5,7)\\}", "(1,8,19), (2,7,13), (4,5,7)"),
    ("(1, 8, 19), (2, 7, 13), \\text{ and } (4, 5, 7)", "(1,8,19), (2,7,13), (4,5,7)"),
    ("4.5 \\times 10^{33}", "4.5e33"),
    ("4.5\\times 10^{33} \\text{ erg s}^{-1}", "4.5e33"),
    ("4.5 \u00d7 10^33", "4.5e33"),
    ("4.5*10^33", "4.5e33"),
    ("4.5 \\times 10^{33}\\,\\mathrm{erg/s}", "4.5e33"),
    ("4.5E33", "4.5e33"),
    ("4.5e+33", "4.5e33"),
    ("45 \\times 10^{32}", "4.5e33"),
    ("0.45\\times10^{34}", "4.5e33"),
    ("4.5\\cdot10^{33}", "4.5e33"),
    ("4.5 \\times 10^{+33}", "4.5e33"),
    ("$4.5 \\times 10^{33}$ ergs per second", "4.5e33"),
    ("L = 4.5\\times 10^{33}", "4.5e33"),
    ("L \\approx 4.5\\times 10^{33}\\text{ erg/s}", "4.5e33"),
    ("6\\times 10^{-3}", "0.006"),
    ("6e-3", "0.006"),
    (".006", "0.006"),
    ("0.0060", "0.006"),
    ("0.006\\text{ arcsec}", "0.006"),
    ("6 \\times 10^{-3}\\,\\text{arcsec}", "0.006"),
    ("\\approx 0.006", "0.006"),
    ("\\arcsin(1.3\\sin\\theta_w)", "\\arcsin{1.3 \\sin{\\theta_w}}"),
    ("\\sin^{-1}(1.3\\sin\\theta_w)", "\\arcsin{1.3 \\sin{\\theta_w}}"),
    ("\\arcsin\\left(1.3\\sin(\\theta_w)\\right)", "\\arcsin{1.3 \\sin{\\theta_w}}"),
    ("\\theta = \\arcsin(1.3 \\sin \\theta_w)", "\\arcsin{1.3 \\sin{\\theta_w}}"),
    ("I(0)e^{-t/(RC)}", "I(0) e^{-\\frac{t}{R C}}\n"),
    ("I(0)\\exp(-t/RC)", "I(0) e^{-\\frac{t}{R C}}\n"),
    ("I(t)=I(0) e^{-t/(RC)}", "I(0) e^{-\\frac{t}{R C}}\n"),
    ("\\frac{e^{at}-e^{-at}}{2a}", "\\frac{1}{2a}(\\exp{a*t} - \\exp{-a*t})"),
    ("\\frac{1}{a}\\sinh(at)", "\\frac{1}{2a}(\\exp{a*t} - \\exp{-a*t})"),
    (
        "ml\\ddot{\\theta}(t) - mg\\sin\\theta(t) = f(t)\\cos\\theta(t)",
        "m l \\ddot{\\theta}(t)-m g \\sin \\theta(t)=f(t) \\cos \\theta(t)",
    ),
    ("-\\frac{1}{3}", "-1./3"),
    ("-1/3", "-1./3"),
    ("-0.3333333", "-1./3"),
    ("t/m", "\\frac{1}{m} t"),
    ("\\frac{t}{m}", "\\frac{1}{m} t"),
    ("SRMC=MR", "MR=SRMC"),
    ("MR = SRMC", "MR=SRMC"),
    ("E_1, E_2", "E_{1},E_{2}"),
    ("E_2 \\text{ and } E_1", "E_{1},E_{2}"),
    ("2.2\\tau", "2.2 \\tau"),
    ("\\frac{11}{5}\\tau", "2.2 \\tau"),
]
"""Other spellings of gold answers as benchmarks have them."""
CURRENCIES = [
    ("\\$5", "5"),
    ("5", "\\$5"),
    ("\\$5", "5 \\text{ dollars}"),
    ("5 \\text{ dollars}", "\\$5"),
    ("\\$5 \\text{ dollars}", "\\$5"),
    ("\\$5", "5 \\text{ dollars per hour}"),
    ("\\$5", "\\$5 \\text{ per hour}"),
    ("5 \\text{ per hour}", "\\$5 \\text{ per hour}"),
    ("\\$1,234.50", "1234.5 \\text{ dollars}"),
    ("\\$1,234", "1,\\!234"),
    ("30^\\circ", "\\$30^\\circ\\$"),
    ("\\$30\\$", "30^\\circ"),
    ("5, 3 \\text{ hours}", "\\$5, 3 \\text{ hours}"),
    ("\\$5 \\text{ tickets}", "\\$5"),
    ("\u20ac5", "5 \\text{ euros}"),
    ("\u00a35", "5"),
    ("x = \\$5", "5 \\text{ dollars}"),
]
"""The sign of a currency is a unit: it may be left out, and contradicts other units."""
DIFFERENT = [
    ("e^{i\\pi}", "1"),
    ("i", "1"),
    ("a_i", "1"),
    ("2.2", "2.2 \\tau"),
    ("2.2 t", "2.2 \\tau"),
    ("2.3\\tau", "2.2 \\tau"),
    ("7.6", "7.6 Z"),
    ("7.6z", "7.6 Z"),
    ("6", "6m"),
    ("7m", "6m"),
    ("6n", "6m"),
    ("6 \\text{ meters and } 7", "6m"),
    ("n", "m"),
    ("M m", "m"),
    ("2m", "m"),
    ("42", "52_8"),
    ("52_{10}", "52_8"),
    ("42_{10}", "52_8"),
    ("25_8", "52_8"),
    ("\\frac{37}{4}", "\\frac{37}{4} m"),
    ("\\frac{37}{5} m", "\\frac{37}{4} m"),
    ("[3,4]", "(3,4]"),
    ("(3,4)", "(3,4]"),
    ("3,4", "(3,4]"),
    ("3\\le x\\le 4", "(3,4]"),
    ("(3,5]", "(3,4]"),
    ("2x+4", "y = 2x + 3"),
    ("y=2x", "y = 2x + 3"),
    ("x=2y+3", "y = 2x + 3"),
    ("y=3x+2", "y = 2x + 3"),
    ("51", "\\sqrt{51}"),
    ("\\sqrt{52}", "\\sqrt{51}"),
    ("-\\sqrt{51}", "\\sqrt{51}"),
    ("\\pm\\sqrt{51}", "\\sqrt{51}"),
    ("\\sqrt{51} \\text{ or } 7", "\\sqrt{51}"),
    ("7.14", "\\sqrt{51}"),
    ("x^2=51", "\\sqrt{51}"),
    ("\\sqrt{51}, -\\sqrt{51}", "\\sqrt{51}"),
    ("4.5", "4.5e33"),
    ("4.5e32", "4.5e33"),
    ("4.6e33", "4.5e33"),
    ("4.5\\times10^{-33}", "4.5e33"),
    ("4.5 \\times 33", "4.5e33"),
    ("33", "4.5e33"),
    ("4.5e33 \\text{ or } 4.6e33", "4.5e33"),
    ("4.5\\times 10^{33} x", "4.5e33"),
    ("MR=LRMC", "MR=SRMC"),
    ("MR", "MR=SRMC"),
    ("1=1", "MR=SRMC"),
    ("E_1", "E_{1},E_{2}"),
    ("E_1,E_3", "E_{1},E_{2}"),
    ("E_1,E_2,E_3", "E_{1},E_{2}"),
    ("x \\ge 3", "(-\\infty,3]"),
    ("x<3", "(-\\infty,3]"),
    ("1, 2, 3", "1,2"),
    ("1", "1,2"),
    ("1 or 3", "1,2"),
    ("(2,1)", "(1,2)"),
    ("5 \\text{ minutes}", "5\\text{ hours}"),
    ("5 \\text{ cm}^2", "5\\text{ cm}^3"),
    ("5 \\text{ meters}", "5\\text{ cm}"),
    ("1.6 \\times 10^{-19}", "6.63\\times 10^{-34}"),
    ("0", "6.63e-34"),
    ("1e-30", "6.63e-34"),
    ("\\frac{1}{2006!}", "\\frac{1}{2004!}"),
    ("Eq(x**2/16 + y**2/12, 1)", "Eq(x**2/4 + y**2/3, 1)"),
    ("\\frac{x^2}{16}+\\frac{y^2}{12}=1", "\\frac{x^2}{4}+\\frac{y^2}{3}=1"),
    ("1.6 \\times 10^{-19} x", "6.63\\times 10^{-34} x"),
    ("y=2x+4", "y=2x+3"),
    ("N=m", "N=n"),
    ("1=0", "N=n"),
    ("0.33", "\\frac13"),
    ("0.3333", "\\frac13"),
    ("2500, 7501", "2500,7500"),
    ("\\text{yes}", "no"),
    ("[1,2]", "(1,2)"),
    ("(1,2]", "[1,2)"),
    ("D", "(C)"),
    ("\\text{C or D}", "\\text{(C)}"),
    ("C, D", "(C)"),
    ("\\pm3", "3"),
    ("3", "\\pm 3"),
    ("52_9", "52_8"),
    ("53", "52_8"),
    ("(97,12]", "(96,12]"),
    ("\\$5", "5\\text{ cm}^2"),
    ("5\\text{ cm}^2", "\\$5"),
    ("\\$5", "5 \\text{ cents}"),
    ("5 \\text{ hours}", "\\$5"),
    ("5^\\circ", "\\$5"),
    ("\u20ac5", "\\$5"),
    ("\u20ac5", "5 \\text{ dollars}"),
    ("\\$1,234", "1,\\!234 \\text{ miles}"),
    ("\\$\\frac{1}{2}", "\\frac12 \\text{ hour}"),
    ("\\$5, \\$6", "5 \\text{ kg}, 6 \\text{ kg}"),
]
GOLDS = [
    "25",
    "-125",
    "4.5e33",
    "-1./3",
    "0.006",
    "10,\\!080",
    "\\frac{3}{56}",
    "3\\sqrt{13}",
    "90^\\circ",
    "5.4 \\text{ cents}",
    "52_8",
    "(3,4]",
    "(-\\infty, 0]",
    "1,-2",
    "2,3,4",
    "p - q",
    "x=5",
    "6 - 5i",
    "\\left( 3, \\frac{\\pi}{2} \\right)",
    "62.5%",
]


def verdict_of(response: str, answer: str, verifier: str = "math_verify") -> RewardLabel:
    """In this process, without limits."""
    used = get_verifier(verifier)
    reduced = used.reduce(response)
    return used.shortcut(reduced, answer, False) or used.grade(reduced, answer, {})


@pytest.mark.parametrize("answer", TWENTY_FIVE)
def test_twenty_five_in_many_spellings(answer: str) -> None:
    assert verdict_of(f"\\boxed{{{answer}}}", "25").reward == 1.0


@pytest.mark.parametrize("answer", OTHERS)
def test_what_is_not_twenty_five(answer: str) -> None:
    assert verdict_of(f"\\boxed{{{answer}}}", "25").reward == 0.0


@pytest.mark.parametrize(("answer", "gold"), SAME + SAME_AS_GOLDS + CURRENCIES)
def test_the_same_answer(answer: str, gold: str) -> None:
    assert compare(gold, answer).same, compare(gold, answer)


def test_an_equation_with_a_tuple_on_one_side_is_compared_by_nobody() -> None:
    import sympy

    point = sympy.Eq(sympy.Symbol("x"), sympy.Tuple(1, 2), evaluate=False)
    assert same_equation(sympy.Eq(sympy.Symbol("x"), 3), point, 1e-6) is None


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_another_answer(answer: str, gold: str) -> None:
    assert compare(gold, answer).same is False, compare(gold, answer)


@pytest.mark.parametrize("gold", GOLDS)
def test_spellings_and_hard_negatives_of_gold_answers(gold: str) -> None:
    for kind, response in spellings(gold):
        assert verdict_of(response, gold).reward == 1.0, (kind, response)
    for kind, response in hard_negatives(gold):
        assert verdict_of(response, gold).reward == 0.0, (kind, response)


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("The answer is 43 or 42.", "42", False),
        ("not 42", "42", False),
        ("The answer is not 42", "42", False),
        ("It could be 42 or 43", "42", False),
        ("We get 42 but I put <answer>43</answer>", "42", False),
        ("<think>\\boxed{42}</think>", "42", False),
        ("<think>\\boxed{43}</think> \\boxed{42}", "42", True),
        ("\\boxed{42} then \\boxed{43", "42", False),
        ("\\boxed{42", "42", False),
        ("\\boxed{42}\n\\boxed{43}", "42", False),
        ("The width falls by 20%: \\boxed{20\\%}", "20", True),
        ("So by what percent? <answer>20%</answer>", "20", True),
        ("So it is \\boxed{20\\%}", "20", False),
        ("The width falls by 20%: \\boxed{21\\%}", "20", False),
        ("The answer is 42.", "42", True),
        ("Answer: $34$", "34", True),
        ("#### 42", "42", True),
        ("so x = 42", "42", True),
        ("\\boxed 7", "7", True),
        ("<answer>42</answer>", "42", True),
        ("<answer>\\(x = 42\\)</answer>", "42", True),
        ("\\boxed{42} of the first.\n<answer>43</answer>", "43", True),
        ("$\\boxed{5}$ for even $n$ and $\\boxed{6}$ for odd $n$", "5,6", True),
        ("$\\boxed{5}$ for even $n$ and $\\boxed{6}$ for odd $n$", "5", False),
        ("\\boxed{255}. Final Answer: The final answer is $10,455$. I hope it is correct.", "10455", True),
        ("\\boxed{42}\n\nThus the final answer is indeed correct.", "42", True),
        ("\\boxed{42}\n\\boxed{42}", "42", True),
    ],
)
def test_where_the_answer_stands(response: str, answer: str, right: bool) -> None:
    assert (verdict_of(response, answer).reward == 1.0) is right


@pytest.mark.parametrize("gold", ["ext{13}", "t(0,4]", "f(x)=ax+b$, where $b$ is an integer and $a>0", "not 5"])
def test_a_gold_answer_that_is_not_understood_is_at_fault(gold: str) -> None:
    assert fault(gold)
    found = math_verify.grade("\\boxed{13}", gold, {})
    assert (found.reward, found.status) == (0.0, "error")


@pytest.mark.parametrize(
    "gold",
    [
        "4.5e33",
        "np.arcsin(10/13)",
        "N=n",
        "\\frac{1}{m} t",
        "(-\\infty, 0) \\cup\\{1\\}$.",
        "864 \\mbox{ inches}^2",
        "E_{1},E_{2}",
        "\\hbar \\omega(v+1 / 2)-\\frac{E_{0}^{2} e^{2}}{2 m \\omega^{2}}",
        "221,$8",
        "\\text{Evelyn}",
    ],
)
def test_gold_answers_that_were_misread_are_understood(gold: str) -> None:
    assert fault(gold) is None


def test_the_same_text_is_right_even_where_nobody_understands_it() -> None:
    gold = "f(x)=a x+b$, where $b$ is an arbitrary integer"
    assert verdict_of(f"\\boxed{{{gold}}}", gold).reward == 1.0


def test_the_tolerance_is_relative_and_can_be_set() -> None:
    assert compare("\\frac13", "0.333333").same
    assert not compare("\\frac13", "0.33333").same
    assert compare("\\frac13", "0.333", Conventions(relative_tolerance=1e-3)).same
    assert compare("6.63e-34", "6.6300000001e-34").same
    assert not compare("6.63e-34", "6.64e-34").same
    assert not compare("12345678", "12345679.0").same  # whole numbers state every digit
    assert not compare("0", "1e-12").same


def test_percent_and_decimal_commas_are_conventions() -> None:
    assert not compare("25", "25\\%").same
    assert compare("25", "25\\%", Conventions(percent_is_the_number="always")).same
    assert compare("25", "25.0\\%", Conventions(percent_is_the_number="always")).same
    assert compare("25", "25\\%", percent_said=True).same
    assert not compare("25", "25\\%", Conventions(percent_is_the_number="never"), percent_said=True).same
    assert not compare("2.74", "2,74").same
    assert compare("2.74", "2,74", Conventions(decimal_comma=True)).same


def test_conventions_come_from_the_configuration_and_change_the_version() -> None:
    loose = RewardConventions(percent_is_the_number="always", answer_in_thoughts=True)
    items = [GradeItem("\\boxed{25\\%}", "25"), GradeItem("<think>\\boxed{5}</think>", "5"), GradeItem("5", "5")]
    with Grader(RewardsConfig(workers=1)) as grader:
        assert [label.reward for label in grader.grade(items)] == [0.0, 0.0, 1.0]
        strict = grader.verifier_of(items[0]).version
    with Grader(RewardsConfig(workers=1, conventions=loose)) as grader:
        assert [label.reward for label in grader.grade(items)] == [1.0, 1.0, 1.0]
        assert grader.verifier_of(items[0]).version != strict


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("x = 25", 25),
        ("\\text{25}", 25),
        ("25\\text{ cm}", 25),
        ("25^\\circ", 25),
        ("25 dollars", 25),
        ("25.", 25),
        ("1\\,234", 1234),
        ("1 234", 1234),
        ("$25$", 25),
        ("-7", -7),
        ("25\\%", None),
        ("24 or 25", None),
        ("\\text{not }25", None),
        ("\\neq 25", None),
        ("x > 25", None),
        ("25_8", None),
        ("\\frac{50}{2}", None),
        ("24, 25", None),
        ("25 \\text{ million}", None),
    ],
)
def test_exact_integers_with_names_and_units(answer: str, value: int | None) -> None:
    assert exact_integer.to_integer(answer) == value


@pytest.mark.parametrize(
    ("inside", "right"),
    [
        ("42", True),
        ("43 or 42", False),
        ("not 42", False),
        ("42 or 43", False),
        ("$x = 42$.", True),
        ("7^2 - 7 = 42", True),
    ],
)
def test_tags_of_r1(inside: str, right: bool) -> None:
    response = f"so</think> <answer>{inside}</answer>"
    assert r1_format.tagged_answer(response) == inside
    assert (verdict_of(response, "42", "r1_format").reward == 1.0) is right


@pytest.mark.parametrize(
    "text", ["--5", "1,23", "1.2.3", "5e99999", "1/0", "\\frac{1}{0}", "x", "", "\u0665", "1e", "3 \\frac{7}{2}", "(5"]
)
def test_what_is_no_number(text: str) -> None:
    assert read_number(text) is None


def test_values_have_one_key() -> None:
    assert len({value_key(text) for text in ("12", "12.0", "x = 12", "$12$", "12.", "1.2e1")}) == 1
    assert value_key("12") != value_key("12\\%")
    assert value_key("1, 2") == value_key("\\{2,1\\}") != value_key("(1,2)")
    assert value_key("\\sqrt{ 2 }") == value_key("\\sqrt{2}")


def test_of_gold_answers_without_end_the_first_are_looked_at() -> None:
    """Those of a log may take gigabytes: they are not gathered before they are counted."""
    endless = (f"x^{number // 2}" for number in itertools.count())
    assert first_different(itertools.chain(["5", "1/2"], endless), 3) == ["x^0", "x^1", "x^2"]
