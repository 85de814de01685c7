//! Calls as futures, under any executor (feature `async`).
//!
//! A future has sent its request when it is polled first, and can be dropped at any time: then the request is given up, and
//! what had reached this process by then is given back (`client::later`).

use crate::{
    client::{Late, Request, Undo},
    error::Result,
    lease::{Answer, Lease},
};

impl Lease {
    /// As [`ask`](Lease::ask), as a future. If that is dropped, `undo` tells how to give back what came.
    pub(crate) async fn ask_later<R>(
        &self,
        doing: &'static str,
        request: Request<'_>,
        undo: Option<Undo>,
        read: impl FnOnce(&mut Answer<'_>) -> Result<R>,
    ) -> Result<R> {
        let client = self.client(doing)?;
        let late = undo.map(|undo| Late { undo, object: self.object, patient: false });
        let (frame, number) = client.begin(doing, request, late)?.reply().await?;
        read(&mut Answer::new(doing, &self.site, &client, frame.payload, number))
    }
}
