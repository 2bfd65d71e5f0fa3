from app.entities.launch import MemoryOptions
from app.use_cases.model_shape import ModelShape
from app.use_cases.tensor_split import layer_ranges
def devices_layers(shape: ModelShape, o: MemoryOptions) -> list[range]:
    shares = o.tensor_split or (1.0,)*o.devices
    if o.split_mode == "none": shares=(1.0,)
    return layer_ranges(shape.hparams.n_layer_all, o.n_gpu_layers, shares)
