"""Where prompts come from and how they are shown to the model."""

from typing import Literal

from pydantic import Field, JsonValue, model_validator

from pipeline.config.base import Config


class Columns(Config):
    """Field names of a prompt file."""

    id: str = "id"
    """Identifier of a problem; where the field is absent the row number is used."""
    problem: str = "problem"
    """The question as text."""
    answer: str = "answer"
    """The gold answer as text."""
    answer_after: str | None = None
    """The gold answer is what stands after the last occurrence of this mark, e.g. `####` in GSM8K."""


class ArithmeticConfig(Config):
    """Generated additions `a+b=`, split once into training and held-out problems."""

    low: int = Field(default=10, ge=0)
    """Smallest summand."""
    high: int = Field(default=99, le=9_999)
    """Largest summand."""
    heldout: int = Field(default=512, gt=0)
    """Problems kept for evaluation and never trained on, neither in imitation nor in TBRM."""

    @model_validator(mode="after")
    def _enough(self) -> "ArithmeticConfig":
        problems = (self.high - self.low + 1) ** 2
        if self.high < self.low or problems <= self.heldout:
            raise ValueError(
                f"{self.low}..{self.high} gives {max(problems, 0)} problems, not more than heldout={self.heldout}"
            )
        return self


class ReasoningGymConfig(Config):
    """Tasks of the reasoning-gym package, in equal shares."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Task names, e.g. `course_schedule`."""
    size: int = Field(default=2_000, gt=0)
    """Problems generated for each task."""
    options: dict[str, dict[str, JsonValue]] = Field(default_factory=dict[str, dict[str, JsonValue]])
    """Arguments of a task's generator, by task name."""


class OverlapConfig(Config):
    """Benchmarks that must not be trained on."""

    source: str
    """Folder with one JSONL file a benchmark (fields id, problem, answer)."""
    benchmarks: tuple[str, ...] = ()
    """Names of the files to look at, without `.jsonl`. Empty: all of the folder."""
    min_share: float = Field(default=0.5, gt=0, le=1)
    """Share of a benchmark problem's 13-grams in one prompt from which on the prompt is left out."""


class PromptsConfig(Config):
    """The prompt set and its template."""

    source: Literal["arithmetic", "file", "hf", "reasoning_gym"]
    """`file`: JSONL or Parquet; `hf`: a `datasets` hub id or saved folder; the others are generated."""
    path: str | None = None
    """File, folder or hub id of the sources `file` and `hf`."""
    revision: str | None = None
    """Commit of the hub data set."""
    subset: str | None = None
    """Configuration of the hub data set, e.g. `main`."""
    split: str = "train"
    """Split of the `hf` source."""
    columns: Columns = Columns()
    """Field names of the sources `file` and `hf`."""
    arithmetic: ArithmeticConfig = ArithmeticConfig()
    """Settings of the source `arithmetic`."""
    reasoning_gym: ReasoningGymConfig | None = None
    """Settings of the source `reasoning_gym`."""
    template: Literal["qwen-math", "r1", "chat", "raw"] = "qwen-math"
    """How a question becomes a prompt; the paper's two, the tokenizer's own chat template, or the bare question."""
    per_generation: int = Field(gt=0)
    """Prompts sampled in one generation, without replacement until the set is used up, then reshuffled."""
    max_prompt_tokens: int = Field(default=2_048, gt=0)
    """Longer prompts are left out of the set, and counted."""
    exclude_overlap: OverlapConfig | None = None
    """Leave out prompts that are benchmark problems, word for word or nearly. None: they stay, and a check warns."""

    @model_validator(mode="after")
    def _source_is_complete(self) -> "PromptsConfig":
        if self.source in ("file", "hf") and not self.path:
            raise ValueError(f"source '{self.source}' needs `path`")
        if self.source == "reasoning_gym" and self.reasoning_gym is None:
            raise ValueError("source 'reasoning_gym' needs `reasoning_gym.tasks`")
        return self
