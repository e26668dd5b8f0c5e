//! Who may do what: tokens, their verifiers, credentials files, secret
//! references, principals, and the one authorisation decision.

mod base62;
pub mod bearer;
pub mod claim;
pub mod creds;
pub mod policy;
pub mod principal;
pub mod private_file;
pub mod reference;
#[cfg(test)]
mod testing;
pub mod token;
pub mod verifier;
