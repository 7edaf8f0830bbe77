"""TALLRec adapted to write the title of one candidate, so its output may be invalid."""

from msrrec.baselines.language.alpaca import encode_frame, quote, show
from msrrec.baselines.language.tuning import TitleTuned
from msrrec.config import RunConfig
from msrrec.reasoning.encoding import shorten
from msrrec.schema import Example

INSTRUCTION = (
    "Given the user's purchase history, oldest first, choose from the candidates the one item that "
    "the user will buy next. Answer with its title alone, exactly as listed."
)
SHORT_INSTRUCTION = "Which candidate will the user buy next? Answer as listed."


class TallrecGen(TitleTuned):
    """The generating TALLRec baseline."""

    section = "tallrec"

    def __init__(self, config: RunConfig, *, trains: bool = True) -> None:
        super().__init__(config, trains=trains)
        self.learns_prompts = config.tallrec.train_on_inputs

    def show(self, title: str) -> str:
        """A title as it stands between quotes."""
        return show(super().show(title))

    def render_answer(self, title: str, index: int) -> str:
        """The answer: the title in quotes; without a number after a space, as in the list."""
        return self._entry(title, index) if self.number(index) else f" {self._entry(title, index)}"

    def _entry(self, title: str, index: int) -> str:
        return f"{self.number(index)}{quote([title])}"

    def prompt(self, example: Example, room: int) -> tuple[list[int], int]:
        """Alpaca's frame around the query."""
        query = self.query(example)
        instruction = SHORT_INSTRUCTION if self.form.instruction == "short" else INSTRUCTION
        candidates = [self._entry(title, n) for n, title in enumerate(query.candidates)]

        def encode(dropped: int) -> list[int]:
            lines = [
                f"Purchase history: {quote(query.history[dropped:])}",
                f"Candidates: {', '.join(candidates)}",
            ]
            return encode_frame(self.tokenizer, instruction, lines, self.form)

        return shorten(encode, query, room)
