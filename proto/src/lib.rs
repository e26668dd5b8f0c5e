//! The wire messages of flexfs, generated from `proto/flexfs/v1/*.proto`.
//! No logic: parsing into domain types is the business of the receiver.

/// Messages and services of `flexfs.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::indexing_slicing,
    reason = "generated code; the documentation is in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("flexfs.v1");
}

mod redacted;

/// The compiled descriptor set (`google.protobuf.FileDescriptorSet`) of all
/// services: the route × principal test takes its list of methods from here.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
