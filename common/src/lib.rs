//! What the tiers of flexfs share: parsed types, the one error list, limits,
//! time, TLS, and what every daemon does at start and end. No business rules.

pub mod cli;
pub mod clock;
pub mod daemon;
pub mod duration;
pub mod error;
pub mod exit;
pub mod failpoint;
pub mod flags;
pub mod frame;
pub mod home;
pub mod http;
pub mod ids;
pub mod limits;
pub mod name;
pub mod places;
pub mod process;
pub mod protocol;
pub mod relatime;
pub mod size;
pub mod status;
pub mod telemetry;
pub mod tls;
pub mod turns;
pub mod wire;

pub use error::{Code, Error, Kind, Result};
