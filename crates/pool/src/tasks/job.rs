//! A call in the hands of who takes its results.

use crate::{driver::Shared, front::JobId};
use std::sync::Arc;

/// A job that ends with its owner.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: Option<JobId>,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(id) = self.id.take()
            && !self.shared.leak_in_copy()
        {
            self.shared.drop_job(id);
        }
    }
}
