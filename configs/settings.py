"""The only reader of the environment: one frozen tree, by topic.

`CODEXOS_HOME` and `CODEXOS_PORT` move an installation; the rest has defaults that suit one machine.
Nested fields are spelled `CODEXOS_<TOPIC>__<FIELD>`, for example `CODEXOS_RUNNER__CAPACITY=200`.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

CONFIGS = Path(__file__).parent


class Topic(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Store(Topic):
    url: str = Field("redis://127.0.0.1:6390/0", description="Redis or Valkey ≥ 7.2, the system of record")
    maxmemory_mb: int = Field(
        2048, ge=64, description="memory of the embedded store; full means 503 on new work"
    )
    min_free_mb: int = Field(256, ge=0, description="free disk below which new work is refused")


class Vectors(Topic):
    url: str = Field("http://127.0.0.1:19540", description="Milvus ≥ 2.5, the vector store")


class Api(Topic):
    host: str = Field("127.0.0.1", description="address the API listens on")
    hosts: tuple[str, ...] = Field(
        (), description="names the API answers to beside loopback ones; on another address, none means any"
    )
    replicas: int = Field(2, ge=1, description="API replicas")
    max_body_mb: int = Field(8, ge=1, description="largest JSON body; more is 413")
    cors_origins: tuple[str, ...] = Field(
        (), description="origins that browsers may call from; none by default"
    )
    ping_s: float = Field(15.0, gt=0, description="seconds between pings on open streams")


class Cluster(Topic):
    num_cpus: int | None = Field(
        None, ge=1, description="CPUs of this machine for Ray; by default what it finds"
    )
    num_gpus: int | None = Field(
        None, ge=0, description="GPUs of this machine for Ray; by default what it finds"
    )


class Runner(Topic):
    capacity: int = Field(500, ge=1, description="executions one runner holds at once")
    max_runners: int = Field(0, ge=0, description="largest pool; 0 is one for each CPU of the cluster")
    lease_ms: int = Field(3000, ge=100, description="a runner silent this long has lost its executions")
    heartbeat_ms: int = Field(1000, ge=20, description="time between two lease renewals")
    max_deliveries: int = Field(5, ge=1, description="runners an execution may lose before it fails")
    coalesce_ms: int = Field(50, ge=0, description="time over which token events are gathered")


class Metering(Topic):
    plans: Path = Field(CONFIGS / "plans.yaml", description="file of the plans there are")
    prices: Path = Field(
        CONFIGS / "prices.yaml", description="file of what models and this installation cost"
    )
    actors: int = Field(1, ge=1, le=16, description="metering actors; workspaces are spread over them")
    close_after_s: int = Field(600, ge=0, description="how long after its end an hour still takes late usage")
    roll_every_s: float = Field(60.0, gt=0, description="time between two rounds that close hours and days")
    sample_every_s: float = Field(900.0, gt=0, description="time between two samples of what is stored")


class Ingestion(Topic):
    inline_documents: int = Field(
        50,
        ge=0,
        description="largest job that runs in the driver itself; larger ones are spread over the cluster",
    )
    inline_mb: int = Field(5, ge=0, description="the same, by megabytes of text that the job states")
    block: int = Field(250, ge=1, description="documents that one task takes at a time")
    jobs: int = Field(4, ge=1, description="jobs that run at once; more wait their turn")
    cpus: float = Field(
        0.0, ge=0, description="CPUs that all jobs together take; 0 is all, of which answers come first"
    )
    gpus_per_worker: float = Field(
        0.0, ge=0, description="GPU share of an embedding worker; 0 embeds on CPUs"
    )
    embed_batch: int = Field(256, ge=1, description="chunks embedded at once")
    max_document_mb: int = Field(64, ge=1, description="largest document; more is refused")
    max_documents: int = Field(1_000_000, ge=1, description="documents one source may list")
    parse_seconds: float = Field(60.0, gt=0, description="how long one document may be parsed")
    parse_mb: int = Field(1024, ge=128, description="memory one parser may use")
    max_upload_mb: int = Field(256, ge=1, description="largest upload; it is streamed to disk")
    git_hosts: dict[str, str] = Field(
        default_factory=dict,
        description="where the repositories of a host are, by host, as JSON; by default at that host over https",
    )
    s3_endpoint: str = Field("", description="S3 endpoint for s3:// sources; empty is Amazon's")
    s3_environment: bool = Field(
        False,
        description="s3:// sources without a credential are read with the AWS keys of this machine's environment, "
        "by every workspace; by default with none, which opens public buckets",
    )


class Vault(Topic):
    kek: str = Field(
        "",
        description="key-encryption keys, 32 bytes in base64, the current one before older ones between commas; "
        "empty is the file secrets/kek.json of the home",
    )
    kms_url: str = Field(
        "", description="a KMS that wraps data keys instead: Transit of OpenBao or Vault, its URL"
    )
    kms_key: str = Field("codexos", description="name of the key in that KMS")
    kms_token_file: str = Field("", description="file with the token for that KMS")
    environment: str = Field(
        "production", description="credentials of this environment, and of none, serve model providers"
    )


class Webhooks(Topic):
    couriers: int = Field(1, ge=1, le=16, description="courier actors; shards are spread over them")
    in_flight: int = Field(
        256,
        ge=1,
        le=1000,
        description="deliveries one courier makes at once; a quarter at most of one workspace, half to failing ones",
    )
    per_endpoint: int = Field(
        8, ge=1, description="deliveries to one endpoint at once; to a failing one it is 1"
    )
    timeout_s: float = Field(15.0, gt=0, description="how long a receiver may take to answer")


class Retention(Topic):
    after_s: int = Field(86_400, ge=0, description="ended executions older than this move to Parquet")
    every_s: float = Field(30.0, gt=0, description="time between two archiving rounds")
    batch: int = Field(2_000, ge=1, description="executions one Parquet file holds at most")
    gather_s: int = Field(3_600, ge=0, description="how long a small batch may wait to become a larger file")


class Settings(BaseSettings):
    """Shapes: `home` is a folder, `port` a TCP port, `egress_allow` networks such as `10.0.0.0/8`."""

    model_config = SettingsConfigDict(
        env_prefix="CODEXOS_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    home: Path = Field(Path(".codexos"), description="folder of everything an installation keeps")
    port: int = Field(8000, ge=1, le=65535, description="port of API and dashboard")
    egress_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma-separated networks that outbound requests may reach beside public ones"
    )
    scripted_model: bool = Field(False, description="offer the deterministic model `scripted`")
    credentials: dict[str, str] = Field(
        default_factory=dict, description="provider keys by name, as JSON, until they are stored in the vault"
    )
    log_level: str = Field("INFO", description="lowest level written to the logs")
    store: Store = Store()
    vectors: Vectors = Vectors()
    api: Api = Api()
    cluster: Cluster = Cluster()
    runner: Runner = Runner()
    metering: Metering = Metering()
    ingestion: Ingestion = Ingestion()
    vault: Vault = Vault()
    webhooks: Webhooks = Webhooks()
    retention: Retention = Retention()

    @field_validator("egress_allow", mode="before")
    @classmethod
    def split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @cached_property
    def root(self) -> Path:
        return self.home.expanduser().resolve()
