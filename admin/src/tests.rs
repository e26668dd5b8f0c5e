//! Tests through the real server: TLS, gRPC, service, database.

mod bootstrapping;
mod creating;
mod cve;
mod feeding;
mod flooding;
mod harness;
mod hostile;
mod living;
mod lost_pepper;
mod matrix;
mod model;
mod pepper_ends;
mod peppering;
mod placing;
mod properties;
mod replicas;
mod revoking;
mod rotating;
mod tenancy;
mod timing;
mod verifying;
