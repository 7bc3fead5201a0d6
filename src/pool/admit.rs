//! What can be told from requests alone: whether they break a limit, and whether they can ever be served.

use super::{Request, Shared};
use crate::backend::{Backend, Limit};
use crate::error::{Error, ErrorKind, Result};
use crate::units::exact;

impl<B: Backend> Shared<B> {
    /// Refuses a request that breaks a limit. `is_alone`: it is no part of a batch.
    pub(super) fn check_request(&self, request: &Request, is_alone: bool) -> Result<()> {
        let Request { bytes, align_bytes, .. } = *request;
        if !align_bytes.is_power_of_two() || align_bytes > self.limits.alignment_bytes_max {
            let message = format!(
                "an alignment of {align_bytes} is not a power of two up to the {} that slabs of {} have",
                exact(self.limits.alignment_bytes_max),
                self.backend.name()
            );
            let remedies = if is_alone { self.alignment_remedies(request) } else { Vec::new() };
            return Err(Error::new(ErrorKind::Alignment, message).with_remedies(remedies));
        }
        self.backend.check()?;
        let limit =
            if self.limits.block.bytes <= self.limits.slab.bytes { self.limits.block } else { self.limits.slab };
        if bytes > limit.bytes {
            return Err(self.too_large(bytes, bytes, limit));
        }
        self.check_slab(bytes, align_bytes)
    }

    /// Refuses bytes that no slab is large enough for.
    pub(super) fn check_slab(&self, bytes: u64, align_bytes: u64) -> Result<()> {
        let fits = self.sizes.fits_limit(bytes, align_bytes);
        fits.map_err(|least_bytes| self.too_large(bytes, least_bytes, self.limits.slab))
    }

    pub(super) fn too_large(&self, bytes: u64, least_bytes: u64, limit: Limit) -> Error {
        let slab =
            if least_bytes > bytes { format!(" needs a slab of {}, which", exact(least_bytes)) } else { String::new() };
        let message = format!("a block of {}{slab} is over {limit} of {}", exact(bytes), self.backend.name());
        Error::new(ErrorKind::TooLarge, message)
    }

    /// Refuses a request that can never be served. It is not counted: the caller has not made it yet.
    pub(super) fn check_serves(&self, request: &Request) -> Result<()> {
        self.check_request(request, true)?;
        self.check_ever(std::slice::from_ref(request))
    }

    /// Refuses requests within the limits that can never be served. They are not counted.
    pub(super) fn check_ever(&self, requests: &[Request]) -> Result<()> {
        let is_over = {
            let state = self.state();
            state.check_open()?;
            state.is_over_budget(requests)
        };
        if is_over { Err(self.over_budget(requests)) } else { Ok(()) }
    }

    /// Refuses requests that break a limit or can never be served, and counts the second as a failure.
    pub(super) fn check_batch(&self, requests: &[Request]) -> Result<()> {
        requests.iter().try_for_each(|request| self.check_request(request, requests.len() == 1))?;
        self.check_budget(requests)
    }

    /// Refuses requests within the limits that can never be served, and counts them as a failure.
    pub(super) fn check_budget(&self, requests: &[Request]) -> Result<()> {
        {
            let mut state = self.state();
            state.check_open()?;
            if !state.is_over_budget(requests) {
                return Ok(());
            }
            state.failed(requests);
        }
        Err(self.over_budget(requests))
    }
}
