"""SASRec (Kang and McAuley 2018) in RecBole's form: two post-norm Transformer layers, GELU.

RecBole 1.2.1: 2 layers, 2 heads, hidden size 64, inner size 256, dropout 0.5, layer norm's epsilon
1e-12, weights N(0, 0.02). With ``loss="binary"`` it learns from one negative a target, as the
authors' code does.
"""

from msrrec.baselines.sequential.system import Sequential
from msrrec.baselines.sequential.trainer import Trial
from msrrec.data.dataset import Dataset
from msrrec.retrieval.sequential.sasrec import SasRecNetwork
from msrrec.retrieval.sequential.saved import SasRecFacts, SasRecRetriever, save_sasrec


class SasRec(Sequential):
    """The SASRec baseline."""

    network = SasRecNetwork
    usual = Trial(learning_rate=1e-3, dropout=0.5, size=64)

    def save(self, dataset: Dataset, folder: str) -> None:
        """Write the trained network into a folder, from which ``msrrec index`` takes it."""
        network = self.fitted
        assert isinstance(network, SasRecNetwork)
        length, size = network.positions.shape
        facts = SasRecFacts(
            dataset=dataset.fingerprint, item_ids=tuple(dataset.items), length=length, size=size
        )
        save_sasrec(SasRecRetriever(facts, network), folder)
