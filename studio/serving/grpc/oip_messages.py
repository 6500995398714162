"""Messages of `inference.GRPCInferenceService` and of `grpc.health.v1.Health`: what of them is used.

Sources: Open Inference Protocol, open_inference_grpc.proto; Triton, protobuf/grpc_service.proto and model_config.proto.
"""

from __future__ import annotations

from functools import cache

from studio.serving.grpc.schema import Messages

_NOTATION = """
ServerLiveRequest
ServerLiveResponse
  1 bool live
ServerReadyRequest
ServerReadyResponse
  1 bool ready
ModelReadyRequest
  1 string name
  2 string version
ModelReadyResponse
  1 bool ready
ServerMetadataRequest
ServerMetadataResponse
  1 string name
  2 string version
  3 *string extensions
ModelMetadataRequest
  1 string name
  2 string version
ModelMetadataResponse
  1 string name
  2 *string versions
  3 string platform
  4 *ModelMetadataResponse.TensorMetadata inputs
  5 *ModelMetadataResponse.TensorMetadata outputs
ModelMetadataResponse.TensorMetadata
  1 string name
  2 string datatype
  3 *int64 shape
InferParameter
  1 bool bool_param?parameter_choice
  2 int64 int64_param?parameter_choice
  3 string string_param?parameter_choice
  4 double double_param?parameter_choice
  5 uint64 uint64_param?parameter_choice
InferTensorContents
  1 *bool bool_contents
  2 *int32 int_contents
  3 *int64 int64_contents
  4 *uint32 uint_contents
  5 *uint64 uint64_contents
  6 *float fp32_contents
  7 *double fp64_contents
  8 *bytes bytes_contents
ModelInferRequest
  1 string model_name
  2 string model_version
  3 string id
  4 <string,InferParameter> parameters
  5 *ModelInferRequest.InferInputTensor inputs
  6 *ModelInferRequest.InferRequestedOutputTensor outputs
  7 *bytes raw_input_contents
ModelInferRequest.InferInputTensor
  1 string name
  2 string datatype
  3 *int64 shape
  4 <string,InferParameter> parameters
  5 InferTensorContents contents
ModelInferRequest.InferRequestedOutputTensor
  1 string name
  2 <string,InferParameter> parameters
ModelInferResponse
  1 string model_name
  2 string model_version
  3 string id
  4 <string,InferParameter> parameters
  5 *ModelInferResponse.InferOutputTensor outputs
  6 *bytes raw_output_contents
ModelInferResponse.InferOutputTensor
  1 string name
  2 string datatype
  3 *int64 shape
  4 <string,InferParameter> parameters
  5 InferTensorContents contents
ModelStreamInferResponse
  1 string error_message
  2 ModelInferResponse infer_response
ModelConfigRequest
  1 string name
  2 string version
ModelConfigResponse
  1 ModelConfig config
ModelConfig
  1 string name
  2 string platform
  17 string backend
  3 ModelVersionPolicy version_policy
  4 int32 max_batch_size
  5 *ModelInput input
  6 *ModelOutput output
  7 *ModelInstanceGroup instance_group
  19 ModelTransactionPolicy model_transaction_policy
  24 ModelResponseCache response_cache
ModelInput
  1 string name
  2 DataType data_type
  4 *int64 dims
ModelOutput
  1 string name
  2 DataType data_type
  3 *int64 dims
ModelVersionPolicy
  3 ModelVersionPolicy.Specific specific?policy_choice
ModelVersionPolicy.Specific
  1 *int64 versions
ModelInstanceGroup
  1 string name
  4 ModelInstanceGroupKind kind
  2 int32 count
ModelTransactionPolicy
  1 bool decoupled
ModelResponseCache
  1 bool enable
ModelStatisticsRequest
  1 string name
  2 string version
ModelStatisticsResponse
  1 *ModelStatistics model_stats
ModelStatistics
  1 string name
  2 string version
  3 uint64 last_inference
  4 uint64 inference_count
  5 uint64 execution_count
  6 InferStatistics inference_stats
  7 *InferBatchStatistics batch_stats
InferStatistics
  1 StatisticDuration success
  2 StatisticDuration fail
  3 StatisticDuration queue
  4 StatisticDuration compute_input
  5 StatisticDuration compute_infer
  6 StatisticDuration compute_output
  7 StatisticDuration cache_hit
  8 StatisticDuration cache_miss
InferBatchStatistics
  1 uint64 batch_size
  2 StatisticDuration compute_input
  3 StatisticDuration compute_infer
  4 StatisticDuration compute_output
StatisticDuration
  1 uint64 count
  2 uint64 ns
ModelRepositoryParameter
  1 bool bool_param?parameter_choice
  2 int64 int64_param?parameter_choice
  3 string string_param?parameter_choice
  4 bytes bytes_param?parameter_choice
RepositoryModelLoadRequest
  1 string repository_name
  2 string model_name
  3 <string,ModelRepositoryParameter> parameters
RepositoryModelLoadResponse
RepositoryModelUnloadRequest
  1 string repository_name
  2 string model_name
  3 <string,ModelRepositoryParameter> parameters
RepositoryModelUnloadResponse
RepositoryIndexRequest
  1 string repository_name
  2 bool ready
RepositoryIndexResponse
  1 *RepositoryIndexResponse.ModelIndex models
RepositoryIndexResponse.ModelIndex
  1 string name
  2 string version
  3 string state
  4 string reason
"""

_DATATYPES = (
    *("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8"),
    *("TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16"),
)
_ENUMS = {"DataType": _DATATYPES, "ModelInstanceGroupKind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")}

_HEALTH = """
HealthCheckRequest
  1 string service
HealthCheckResponse
  1 ServingStatus status
"""


@cache
def inference() -> Messages:
    """Package `inference`."""
    return Messages("inference", _NOTATION, _ENUMS)


@cache
def health() -> Messages:
    """Package `grpc.health.v1`."""
    return Messages(
        "grpc.health.v1", _HEALTH, {"ServingStatus": ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")}
    )
