"""An ONNX file as a model of MLServer's; imported by MLServer, in its own environment."""

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, ResponseOutput
from mlserver.utils import get_model_uri

DATATYPES = {"float": "FP32", "double": "FP64", "float16": "FP16", "bool": "BOOL"}


class OnnxModel(MLModel):
    """Answers the Open Inference Protocol (V2), as Triton and KServe do, under the names in the file."""

    async def load(self) -> bool:
        self._session = onnxruntime.InferenceSession(await get_model_uri(self._settings))
        self.inputs = [described(value) for value in self._session.get_inputs()]
        self.outputs = [described(value) for value in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feed = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        results = self._session.run(None, feed)
        outputs = [encoded(spec.name, array) for spec, array in zip(self.outputs, results, strict=True)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


def encoded(name: str, array: np.ndarray) -> ResponseOutput:
    output = NumpyCodec.encode_output(name, array)
    output.shape = list(array.shape)  # the codec makes a column of a vector
    return output


def described(value: onnxruntime.NodeArg) -> MetadataTensor:
    dtype = value.type.removeprefix("tensor(").removesuffix(")")
    shape = [size if isinstance(size, int) else -1 for size in value.shape]
    return MetadataTensor(name=value.name, datatype=DATATYPES.get(dtype, dtype.upper()), shape=shape)
