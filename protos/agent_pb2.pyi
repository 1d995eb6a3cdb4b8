from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    QUEUED: _ClassVar[Phase]
    PREPARING: _ClassVar[Phase]

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    MEASURED: _ClassVar[Status]
    OUT_OF_MEMORY: _ClassVar[Status]
    FAILED: _ClassVar[Status]
    JOINED: _ClassVar[Status]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    CONVERGED: _ClassVar[StopReason]
    MAX_SAMPLES: _ClassVar[StopReason]
    MAX_TIME: _ClassVar[StopReason]
PHASE_UNSPECIFIED: Phase
QUEUED: Phase
PREPARING: Phase
STATUS_UNSPECIFIED: Status
MEASURED: Status
OUT_OF_MEMORY: Status
FAILED: Status
JOINED: Status
STOP_REASON_UNSPECIFIED: StopReason
CONVERGED: StopReason
MAX_SAMPLES: StopReason
MAX_TIME: StopReason

class DescribeRequest(_message.Message):
    __slots__ = ("protocol_version",)
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    def __init__(self, protocol_version: _Optional[int] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("protocol_version", "agent_version", "hostname", "backend", "sku", "devices", "links", "versions", "kernels", "threads", "max_cases")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    SKU_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    MAX_CASES_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    agent_version: str
    hostname: str
    backend: str
    sku: str
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    links: _containers.RepeatedCompositeFieldContainer[Link]
    versions: _containers.ScalarMap[str, str]
    kernels: _containers.RepeatedCompositeFieldContainer[KernelSupport]
    threads: int
    max_cases: int
    def __init__(self, protocol_version: _Optional[int] = ..., agent_version: _Optional[str] = ..., hostname: _Optional[str] = ..., backend: _Optional[str] = ..., sku: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., links: _Optional[_Iterable[_Union[Link, _Mapping]]] = ..., versions: _Optional[_Mapping[str, str]] = ..., kernels: _Optional[_Iterable[_Union[KernelSupport, _Mapping]]] = ..., threads: _Optional[int] = ..., max_cases: _Optional[int] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("index", "name", "uuid", "memory_bytes", "processors", "cache_bytes", "power_limit_w", "max_clock_mhz", "capability")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESSORS_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    POWER_LIMIT_W_FIELD_NUMBER: _ClassVar[int]
    MAX_CLOCK_MHZ_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    index: int
    name: str
    uuid: str
    memory_bytes: int
    processors: int
    cache_bytes: int
    power_limit_w: float
    max_clock_mhz: float
    capability: str
    def __init__(self, index: _Optional[int] = ..., name: _Optional[str] = ..., uuid: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., processors: _Optional[int] = ..., cache_bytes: _Optional[int] = ..., power_limit_w: _Optional[float] = ..., max_clock_mhz: _Optional[float] = ..., capability: _Optional[str] = ...) -> None: ...

class Link(_message.Message):
    __slots__ = ("a", "b", "kind", "lanes")
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    a: int
    b: int
    kind: str
    lanes: int
    def __init__(self, a: _Optional[int] = ..., b: _Optional[int] = ..., kind: _Optional[str] = ..., lanes: _Optional[int] = ...) -> None: ...

class KernelSupport(_message.Message):
    __slots__ = ("kernel", "dims", "dtypes", "kv_dtypes", "max_degree", "library")
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    DIMS_FIELD_NUMBER: _ClassVar[int]
    DTYPES_FIELD_NUMBER: _ClassVar[int]
    KV_DTYPES_FIELD_NUMBER: _ClassVar[int]
    MAX_DEGREE_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    kernel: str
    dims: _containers.RepeatedScalarFieldContainer[str]
    dtypes: _containers.RepeatedScalarFieldContainer[str]
    kv_dtypes: _containers.RepeatedScalarFieldContainer[str]
    max_degree: int
    library: str
    def __init__(self, kernel: _Optional[str] = ..., dims: _Optional[_Iterable[str]] = ..., dtypes: _Optional[_Iterable[str]] = ..., kv_dtypes: _Optional[_Iterable[str]] = ..., max_degree: _Optional[int] = ..., library: _Optional[str] = ...) -> None: ...

class KernelCase(_message.Message):
    __slots__ = ("kernel", "dtype", "kv_dtype", "dims")
    class DimsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    KV_DTYPE_FIELD_NUMBER: _ClassVar[int]
    DIMS_FIELD_NUMBER: _ClassVar[int]
    kernel: str
    dtype: str
    kv_dtype: str
    dims: _containers.ScalarMap[str, int]
    def __init__(self, kernel: _Optional[str] = ..., dtype: _Optional[str] = ..., kv_dtype: _Optional[str] = ..., dims: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ProfileRequest(_message.Message):
    __slots__ = ("protocol_version", "cases", "settings", "device", "group")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CASES_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    cases: _containers.RepeatedCompositeFieldContainer[KernelCase]
    settings: Settings
    device: int
    group: Group
    def __init__(self, protocol_version: _Optional[int] = ..., cases: _Optional[_Iterable[_Union[KernelCase, _Mapping]]] = ..., settings: _Optional[_Union[Settings, _Mapping]] = ..., device: _Optional[int] = ..., group: _Optional[_Union[Group, _Mapping]] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("world_size", "first_rank", "local_ranks", "rendezvous", "host")
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    FIRST_RANK_FIELD_NUMBER: _ClassVar[int]
    LOCAL_RANKS_FIELD_NUMBER: _ClassVar[int]
    RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    world_size: int
    first_rank: int
    local_ranks: int
    rendezvous: str
    host: str
    def __init__(self, world_size: _Optional[int] = ..., first_rank: _Optional[int] = ..., local_ranks: _Optional[int] = ..., rendezvous: _Optional[str] = ..., host: _Optional[str] = ...) -> None: ...

class Settings(_message.Message):
    __slots__ = ("relative_ci", "min_samples", "max_samples", "max_case_s", "method")
    RELATIVE_CI_FIELD_NUMBER: _ClassVar[int]
    MIN_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_CASE_S_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    relative_ci: float
    min_samples: int
    max_samples: int
    max_case_s: float
    method: str
    def __init__(self, relative_ci: _Optional[float] = ..., min_samples: _Optional[int] = ..., max_samples: _Optional[int] = ..., max_case_s: _Optional[float] = ..., method: _Optional[str] = ...) -> None: ...

class ProfileEvent(_message.Message):
    __slots__ = ("case_index", "phase", "samples", "outcome", "rendezvous")
    CASE_INDEX_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
    case_index: int
    phase: Phase
    samples: Samples
    outcome: Outcome
    rendezvous: Rendezvous
    def __init__(self, case_index: _Optional[int] = ..., phase: _Optional[_Union[Phase, str]] = ..., samples: _Optional[_Union[Samples, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., rendezvous: _Optional[_Union[Rendezvous, _Mapping]] = ...) -> None: ...

class Rendezvous(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    def __init__(self, address: _Optional[str] = ...) -> None: ...

class Samples(_message.Message):
    __slots__ = ("runtime_us",)
    RUNTIME_US_FIELD_NUMBER: _ClassVar[int]
    runtime_us: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, runtime_us: _Optional[_Iterable[float]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("status", "message", "statistics", "stop_reason", "method", "launches_per_sample", "rotated_buffers", "host_launch_us", "energy_j", "flags", "before", "after", "library")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    LAUNCHES_PER_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    ROTATED_BUFFERS_FIELD_NUMBER: _ClassVar[int]
    HOST_LAUNCH_US_FIELD_NUMBER: _ClassVar[int]
    ENERGY_J_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    status: Status
    message: str
    statistics: Statistics
    stop_reason: StopReason
    method: str
    launches_per_sample: int
    rotated_buffers: int
    host_launch_us: float
    energy_j: float
    flags: _containers.RepeatedScalarFieldContainer[str]
    before: Conditions
    after: Conditions
    library: str
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., message: _Optional[str] = ..., statistics: _Optional[_Union[Statistics, _Mapping]] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ..., method: _Optional[str] = ..., launches_per_sample: _Optional[int] = ..., rotated_buffers: _Optional[int] = ..., host_launch_us: _Optional[float] = ..., energy_j: _Optional[float] = ..., flags: _Optional[_Iterable[str]] = ..., before: _Optional[_Union[Conditions, _Mapping]] = ..., after: _Optional[_Union[Conditions, _Mapping]] = ..., library: _Optional[str] = ...) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("n", "mean_us", "std_us", "min_us", "median_us", "p90_us")
    N_FIELD_NUMBER: _ClassVar[int]
    MEAN_US_FIELD_NUMBER: _ClassVar[int]
    STD_US_FIELD_NUMBER: _ClassVar[int]
    MIN_US_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_US_FIELD_NUMBER: _ClassVar[int]
    P90_US_FIELD_NUMBER: _ClassVar[int]
    n: int
    mean_us: float
    std_us: float
    min_us: float
    median_us: float
    p90_us: float
    def __init__(self, n: _Optional[int] = ..., mean_us: _Optional[float] = ..., std_us: _Optional[float] = ..., min_us: _Optional[float] = ..., median_us: _Optional[float] = ..., p90_us: _Optional[float] = ...) -> None: ...

class Conditions(_message.Message):
    __slots__ = ("clock_mhz", "memory_clock_mhz", "temperature_c", "power_w", "throttle_reasons", "host_load", "steal")
    CLOCK_MHZ_FIELD_NUMBER: _ClassVar[int]
    MEMORY_CLOCK_MHZ_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    THROTTLE_REASONS_FIELD_NUMBER: _ClassVar[int]
    HOST_LOAD_FIELD_NUMBER: _ClassVar[int]
    STEAL_FIELD_NUMBER: _ClassVar[int]
    clock_mhz: float
    memory_clock_mhz: float
    temperature_c: float
    power_w: float
    throttle_reasons: _containers.RepeatedScalarFieldContainer[str]
    host_load: float
    steal: float
    def __init__(self, clock_mhz: _Optional[float] = ..., memory_clock_mhz: _Optional[float] = ..., temperature_c: _Optional[float] = ..., power_w: _Optional[float] = ..., throttle_reasons: _Optional[_Iterable[str]] = ..., host_load: _Optional[float] = ..., steal: _Optional[float] = ...) -> None: ...
