//! Who has a name: epochs and the lease of the newest one's holder.

use jiff::{SignedDuration, Timestamp};

use super::attempt::SETTLE;
use super::error::LineageError;
use super::record::{Holder, Progress, Record};

/// Who starts, and what is known of who was there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Made up at random for this start.
    pub id: String,
    /// What stays the same when the same slot starts again; see [`Holder::incarnation`].
    pub incarnation: Option<String>,
    /// Host name of the node.
    pub host: String,
    /// The pod, if it runs in one.
    pub pod: Option<String>,
    /// Process id of the wrapper.
    pub pid: u32,
    /// How long the name is held without a renewal.
    pub lease: SignedDuration,
    /// The id of a holder that the caller knows to have ended (its process is gone from this machine).
    pub known_gone: Option<String>,
}

impl Record {
    /// Begins an epoch, and returns its number.
    ///
    /// # Errors
    /// [`LineageError::Held`] while another holder's lease lasts, unless it is an earlier incarnation of the same
    /// slot or known to have ended.
    pub fn begin(&mut self, start: &Start, now: Timestamp) -> Result<u64, LineageError> {
        if let Some(holder) = self.live_holder(now) {
            let succeeds = holder.id == start.id
                || start.known_gone.as_ref() == Some(&holder.id)
                || (holder.incarnation.is_some() && holder.incarnation == start.incarnation);
            if !succeeds {
                return Err(LineageError::Held {
                    name: self.name.clone(),
                    until: holder.lease_until,
                    holder: Box::new(holder.clone()),
                });
            }
        }
        self.epoch += 1;
        self.holder = Some(Holder {
            id: start.id.clone(),
            incarnation: start.incarnation.clone(),
            host: start.host.clone(),
            pod: start.pod.clone(),
            pid: start.pid,
            since: now,
            lease_until: now + start.lease,
            leaving_until: None,
        });
        Ok(self.epoch)
    }

    /// Whether `epoch` is the newest.
    ///
    /// # Errors
    /// [`LineageError::Fenced`] where it is not.
    pub fn check_epoch(&self, epoch: u64) -> Result<(), LineageError> {
        if epoch == self.epoch {
            return Ok(());
        }
        Err(LineageError::Fenced {
            name: self.name.clone(),
            epoch,
            newest: self.epoch,
            holder: self.holder.clone().map(Box::new),
        })
    }

    /// Lengthens the holder's lease, and notes that a restored program has run on for [`SETTLE`].
    ///
    /// # Errors
    /// [`LineageError::Fenced`].
    pub fn renew(&mut self, epoch: u64, lease: SignedDuration, now: Timestamp) -> Result<(), LineageError> {
        self.check_epoch(epoch)?;
        if let Some(holder) = &mut self.holder {
            holder.lease_until = holder.lease_until.max(now + lease);
        }
        if let Progress::Running { epoch: running, from: Some(_), since, .. } = self.progress
            && running == epoch
            && now.duration_since(since) >= SETTLE
        {
            self.settle(epoch);
        }
        Ok(())
    }

    /// Ends the holder's lease: the next start need not wait. The epoch stays the newest.
    ///
    /// # Errors
    /// [`LineageError::Fenced`].
    pub fn release(&mut self, epoch: u64, now: Timestamp) -> Result<(), LineageError> {
        self.check_epoch(epoch)?;
        if let Some(holder) = &mut self.holder {
            holder.lease_until = holder.lease_until.min(now);
        }
        Ok(())
    }
}
