//! Signed URLs of the directory store: one object, one method, one session,
//! at most 60 s. The form is that of presigned requests of cloud stores, so
//! that clients know only one kind.
//!
//! `/v1/blocks/<volume>/<object>?m=GET|PUT&s=<session>&e=<unix millis>&l=<limit>&k=<hex>`
//!
//! k is HMAC-SHA-256 over a domain word and every other part, each of fixed
//! width, so that no two requests have the same input.

use std::fmt;

use aws_lc_rs::hmac;
use flexfs_common::ids::{ObjectId, SessionId, VolumeId};
use flexfs_common::{Code, Error, Result, clock, limits};

/// Separates this use of HMAC from every other.
const DOMAIN: &[u8] = b"flexfs-block-1\0";
/// Path prefix of the endpoint.
pub const PATH_PREFIX: &str = "/v1/blocks";

/// What a URL allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Read the object, whole or in part.
    Get,
    /// Create it, once.
    Put,
}

impl Method {
    /// As in HTTP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Put => "PUT",
        }
    }

    const fn tag(self) -> u8 {
        match self {
            Method::Get => 1,
            Method::Put => 2,
        }
    }
}

/// What a signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// What may be done.
    pub method: Method,
    /// Whose object.
    pub volume: VolumeId,
    /// Which object.
    pub object: ObjectId,
    /// For which session alone.
    pub session: SessionId,
    /// Until when, in milliseconds since 1970 by this server's clock.
    pub expires_millis: u64,
    /// Largest body of a PUT in bytes; 0 for GET.
    pub limit: u64,
}

impl Claims {
    /// Valid from now for [`limits::SIGNED_URL`].
    #[must_use]
    pub fn from_now(
        method: Method,
        volume: VolumeId,
        object: ObjectId,
        session: SessionId,
        limit: u64,
    ) -> Claims {
        let life = u64::try_from(limits::SIGNED_URL.as_millis()).unwrap_or(0);
        let expires_millis = now_millis().saturating_add(life);
        Claims { method, volume, object, session, expires_millis, limit }
    }
}

/// Milliseconds since 1970, now.
#[must_use]
pub fn now_millis() -> u64 {
    u64::try_from(clock::wall_now().as_millisecond()).unwrap_or(0)
}

/// Signs and checks, under a key that only this server has.
pub struct Signer {
    key: hmac::Key,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// With this key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Signer {
        Signer { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// The URL, relative to this server's address.
    #[must_use]
    pub fn sign(&self, claims: &Claims) -> String {
        let tag = hmac::sign(&self.key, &input(claims));
        format!(
            "{PATH_PREFIX}/{}/{}?m={}&s={}&e={}&l={}&k={}",
            claims.volume,
            claims.object,
            claims.method.name(),
            claims.session,
            claims.expires_millis,
            claims.limit,
            Hex(tag.as_ref()),
        )
    }

    /// Checks a request: `volume` and `object` from its path, `query` as sent.
    ///
    /// # Errors
    /// `BLOCK_REFUSED`, without saying which part is wrong except for age.
    pub fn check(
        &self,
        method: Method,
        volume: &str,
        object: &str,
        query: &str,
        now_millis: u64,
    ) -> Result<Claims> {
        let (claims, tag) = parse(method, volume, object, query).ok_or_else(refused)?;
        // Constant time (aws-lc: CRYPTO_memcmp).
        hmac::verify(&self.key, &input(&claims), &tag).map_err(|_| refused())?;
        if now_millis >= claims.expires_millis {
            return Err(Error::new(Code::BlockRefused, "the signed URL has expired"));
        }
        Ok(claims)
    }
}

fn refused() -> Error {
    Error::new(Code::BlockRefused, "the signed URL is not valid for this")
}

fn input(claims: &Claims) -> Vec<u8> {
    let mut input = Vec::with_capacity(DOMAIN.len() + 65);
    input.extend_from_slice(DOMAIN);
    input.push(claims.method.tag());
    input.extend_from_slice(claims.volume.as_bytes());
    input.extend_from_slice(&claims.object.0);
    input.extend_from_slice(claims.session.as_bytes());
    input.extend_from_slice(&claims.expires_millis.to_be_bytes());
    input.extend_from_slice(&claims.limit.to_be_bytes());
    input
}

fn parse(method: Method, volume: &str, object: &str, query: &str) -> Option<(Claims, [u8; 32])> {
    let (mut m, mut s, mut e, mut l, mut k) = (None, None, None, None, None);
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=')?;
        let field = match name {
            "m" => &mut m,
            "s" => &mut s,
            "e" => &mut e,
            "l" => &mut l,
            "k" => &mut k,
            _ => return None,
        };
        if field.replace(value).is_some() {
            return None;
        }
    }
    if m? != method.name() {
        return None;
    }
    let claims = Claims {
        method,
        volume: volume.parse().ok()?,
        object: ObjectId(unhex(object)?),
        session: s?.parse().ok()?,
        expires_millis: e?.parse().ok()?,
        limit: l?.parse().ok()?,
    };
    Some((claims, unhex(k?)?))
}

/// Lower-case hex of exactly N bytes.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Bytes shown as lower-case hex.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            method: Method::Put,
            volume: VolumeId::from_bytes([1; 16]),
            object: ObjectId([2; 16]),
            session: SessionId::from_bytes([3; 16]),
            expires_millis: 1_000_000,
            limit: 4096,
        }
    }

    fn split(url: &str) -> (String, String, String) {
        let (path, query) = url.split_once('?').unwrap();
        let mut parts = path.strip_prefix(PATH_PREFIX).unwrap().split('/').skip(1);
        (parts.next().unwrap().into(), parts.next().unwrap().into(), query.into())
    }

    #[test]
    fn a_signed_url_is_valid_until_it_expires_and_not_at_that_moment() {
        let signer = Signer::new(&[7; 32]);
        let (volume, object, query) = split(&signer.sign(&claims()));
        let check = |now| signer.check(Method::Put, &volume, &object, &query, now);
        assert_eq!(check(999_999).unwrap(), claims());
        assert_eq!(check(1_000_000).unwrap_err().code(), Code::BlockRefused);
    }

    #[test]
    fn every_altered_field_is_refused() {
        let signer = Signer::new(&[7; 32]);
        let (volume, object, query) = split(&signer.sign(&claims()));
        let check = |method, v: &str, o: &str, q: &str| signer.check(method, v, o, q, 0);
        check(Method::Put, &volume, &object, &query).unwrap();
        let other_session = SessionId::from_bytes([4; 16]).to_string();
        let session = claims().session.to_string();
        let other_volume = VolumeId::from_bytes([9; 16]).to_string();
        let other_object = ObjectId([9; 16]).to_string();
        let first_of_key = query.find("k=").unwrap() + 2;
        let mut flipped = query.clone();
        let digit = if query.as_bytes()[first_of_key] == b'0' { "1" } else { "0" };
        flipped.replace_range(first_of_key..=first_of_key, digit);
        let altered = [
            (Method::Get, volume.clone(), object.clone(), query.clone()),
            (Method::Get, volume.clone(), object.clone(), query.replace("m=PUT", "m=GET")),
            (Method::Put, other_volume, object.clone(), query.clone()),
            (Method::Put, volume.clone(), other_object, query.clone()),
            (Method::Put, volume.clone(), object.clone(), query.replace(&session, &other_session)),
            (Method::Put, volume.clone(), object.clone(), query.replace("e=1000000", "e=2000000")),
            (Method::Put, volume.clone(), object.clone(), query.replace("l=4096", "l=8192")),
            (Method::Put, volume.clone(), object.clone(), flipped),
            (Method::Put, volume.clone(), object.clone(), format!("{query}&l=8192")),
            (Method::Put, volume.clone(), object.clone(), query.replace("&l=4096", "")),
            (Method::Put, volume.clone(), object.to_uppercase() + "00", query.clone()),
            (Method::Put, volume.clone(), object.clone(), String::new()),
        ];
        for (method, v, o, q) in altered {
            let error = check(method, &v, &o, &q).unwrap_err();
            assert_eq!(error.code(), Code::BlockRefused, "{method:?} {v} {o} {q}");
        }
        let stranger = Signer::new(&[8; 32]);
        assert!(stranger.check(Method::Put, &volume, &object, &query, 0).is_err());
    }
}
