"""Messages of TensorFlow Serving's gRPC services: what of them is used.

Sources: TensorFlow Serving, apis/*.proto; TensorFlow, framework/tensor.proto, example/example.proto, feature.proto.
"""

from __future__ import annotations

from functools import cache

from studio.serving.grpc.schema import Messages

_NOTATION = """
Int64Value
  1 int64 value
Any
  1 string type_url
  2 bytes value
TensorShapeProto
  2 *TensorShapeProto.Dim dim
  3 bool unknown_rank
TensorShapeProto.Dim
  1 int64 size
  2 string name
TensorProto
  1 DataType dtype
  2 TensorShapeProto tensor_shape
  4 bytes tensor_content
  5 *float float_val
  6 *double double_val
  7 *int32 int_val
  8 *bytes string_val
  10 *int64 int64_val
  11 *bool bool_val
  13 *int32 half_val
  16 *uint32 uint32_val
  17 *uint64 uint64_val
ModelSpec
  1 string name
  2 Int64Value version?version_choice
  4 string version_label?version_choice
  3 string signature_name
PredictRequest
  1 ModelSpec model_spec
  2 <string,TensorProto> inputs
  3 *string output_filter
PredictResponse
  1 <string,TensorProto> outputs
  2 ModelSpec model_spec
GetModelMetadataRequest
  1 ModelSpec model_spec
  2 *string metadata_field
GetModelMetadataResponse
  1 ModelSpec model_spec
  2 <string,Any> metadata
SignatureDefMap
  1 <string,SignatureDef> signature_def
SignatureDef
  1 <string,TensorInfo> inputs
  2 <string,TensorInfo> outputs
  3 string method_name
TensorInfo
  1 string name
  2 DataType dtype
  3 TensorShapeProto tensor_shape
GetModelStatusRequest
  1 ModelSpec model_spec
GetModelStatusResponse
  1 *ModelVersionStatus model_version_status
ModelVersionStatus
  1 int64 version
  2 int32 state
  3 StatusProto status
StatusProto
  1 int32 error_code
  2 string error_message
BytesList
  1 *bytes value
FloatList
  1 *float value
Int64List
  1 *int64 value
Feature
  1 BytesList bytes_list?kind
  2 FloatList float_list?kind
  3 Int64List int64_list?kind
Features
  1 <string,Feature> feature
Example
  1 Features features
ExampleList
  1 *Example examples
ExampleListWithContext
  1 *Example examples
  2 Example context
Input
  1 ExampleList example_list?kind
  2 ExampleListWithContext example_list_with_context?kind
Class
  1 string label
  2 float score
Classifications
  1 *Class classes
ClassificationResult
  1 *Classifications classifications
ClassificationRequest
  1 ModelSpec model_spec
  2 Input input
ClassificationResponse
  1 ClassificationResult result
  2 ModelSpec model_spec
Regression
  1 float value
RegressionResult
  1 *Regression regressions
RegressionRequest
  1 ModelSpec model_spec
  2 Input input
RegressionResponse
  1 RegressionResult result
  2 ModelSpec model_spec
InferenceTask
  1 ModelSpec model_spec
  2 string method_name
InferenceResult
  1 ModelSpec model_spec
  2 ClassificationResult classification_result?result
  3 RegressionResult regression_result?result
MultiInferenceRequest
  1 *InferenceTask tasks
  2 Input input
MultiInferenceResponse
  1 *InferenceResult results
"""
DTYPES = (
    *("DT_INVALID", "DT_FLOAT", "DT_DOUBLE", "DT_INT32", "DT_UINT8", "DT_INT16", "DT_INT8", "DT_STRING"),
    *("DT_COMPLEX64", "DT_INT64", "DT_BOOL", "DT_QINT8", "DT_QUINT8", "DT_QINT32", "DT_BFLOAT16", "DT_QINT16"),
    *("DT_QUINT16", "DT_UINT16", "DT_COMPLEX128", "DT_HALF", "DT_RESOURCE", "DT_VARIANT", "DT_UINT32", "DT_UINT64"),
)
"""TensorFlow's datatypes by their number."""


@cache
def messages() -> Messages:
    """Package `tensorflow.serving`, with what it uses of others: names do not travel, only numbers do."""
    return Messages("tensorflow.serving", _NOTATION, {"DataType": DTYPES})
