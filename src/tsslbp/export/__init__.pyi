from . import plain as plain
from .nir_reader import from_nir as from_nir
from .nir_writer import to_nir as to_nir
from .onnx_writer import to_onnx as to_onnx
from .plain import to_plain as to_plain
