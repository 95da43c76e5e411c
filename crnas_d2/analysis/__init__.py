from .flops import DetectorCost, ModuleCost, analyze_detector
from .model_zoo import format_model_zoo
from .paper_convention import paper_convention_gflops
from .paper_results import PAPER_RESULTS, PaperResult
from .trace import LayerCall

__all__ = [
    "PAPER_RESULTS",
    "DetectorCost",
    "LayerCall",
    "ModuleCost",
    "PaperResult",
    "analyze_detector",
    "format_model_zoo",
    "paper_convention_gflops",
]
