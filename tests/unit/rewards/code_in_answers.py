"""Answers that carry code, each in the clothes of some way by which text has been run before."""

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import reasoning_gym

Entry = dict[str, Any]


class _Opens:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def deeds(marker: Path, port: int) -> list[str]:
    """Python expressions that leave a file or make a connection when they are evaluated."""
    path = str(marker)
    return [
        f"__import__('os').system('touch {path}')",
        f"open({path!r}, 'w').write('x')",
        f"__import__('pathlib').Path({path!r}).touch()",
        f"__import__('socket').create_connection(('127.0.0.1', {port}))",
        f"__import__('subprocess').run(['touch', {path!r}])",
        f"exec(\"import os\\nos.system('touch {path}')\")",
        f"eval(compile(\"open({path!r}, 'w')\", 'a', 'eval'))",
        f"().__class__.__bases__[0].__subclasses__()[0].__init__.__globals__['__builtins__']['open']({path!r}, 'w')",
        f"[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0](['touch', {path!r}])",
        f"(lambda: open({path!r}, 'w'))()",
        f"[open({path!r}, 'w') for _ in [1]]",
        f"getattr(__import__('os'), 'sys' + 'tem')('touch {path}')",
        f"setattr(__import__('pipeline.rewards.verifiers.reasoning_gym').rewards, 'x', open({path!r}, 'w'))",
    ]


def code_carrying(marker: Path, port: int) -> list[str]:
    """Answers with such expressions inside what parsers of mathematics, JSON and text take."""
    path = str(marker)
    pickled = base64.b64encode(pickle.dumps(_Opens(path))).decode()
    answers = deeds(marker, port)
    first = answers[0]
    answers += [f"[{first}]", f"[[{first}]]", f"({first}, 1)", f"{{'a': {first}}}", f"1 + {first}", f"x*{first}"]
    answers += [f"Symbol({first})", f"Integral({first})", f'sympify("{first}")', f'parse_expr("{first}")']
    answers += [f'lambdify([], "{first}")()', f'S("{first}")', f'N("{first}")', f"sqrt({first})"]
    answers += [f"f'{{{first}}}'", f"{{0.__class__.__init__.__globals__}} {first}", f"%s{first}", f"${{{first}}}"]
    answers += [f"\\boxed{{{first}}}", f"${first}$", f"\\frac{{{first}}}{{2}}", f"\\operatorname{{exec}}({first})"]
    answers += [f"\\input{{{path}}}", f"\\write18{{touch {path}}}", f"\\immediate\\write18{{touch {path}}}"]
    answers += [f"!!python/object/apply:os.system ['touch {path}']", f"pickle.loads({pickled!r})", pickled]
    answers += [f"cos\nsystem\n(S'touch {path}'\ntR.", f"; touch {path}", f"`touch {path}`", f"$(touch {path})"]
    answers += [f'["{first}"]', f'{{"answer": "{first}"}}', f"a is {first}", "x" * 300 + first, first + "\x00"]
    return [*answers, "nan", "inf", "-inf", "[NaN, NaN]", "\ud800", "None", "True", "..."]


def swelling() -> list[str]:
    """Answers that take all time or memory where nothing bounds it."""
    nested = ["(" * 500 + "1" + ")" * 500, "-" * 3_000 + "1", "[" * 3_000]
    return [*nested, "9**9**9", "1e999999999", "1" * 5_000, "0x" + "f" * 3_000]


def entries(task: str, count: int, seed: int = 11) -> list[Entry]:
    """Generated questions of reasoning-gym as the store holds them: plain JSON, the answer as text."""
    data: Any = reasoning_gym.create_dataset(task, size=count, seed=seed)
    found = [json.loads(json.dumps(data[number], default=str)) for number in range(count)]
    return [{**entry, "answer": str(entry["answer"])} for entry in found]
