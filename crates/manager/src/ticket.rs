//! Proxies where no descriptor can go.

use crate::{
    access::Access,
    client::{Request, malformed},
    error::Result,
    hosted::Hosted,
    lease::{self, Lease, Proxy},
    proto::{Op, Reader, put_u64},
    site::Site,
};
use serde::{Deserialize, Serialize};
use std::{fmt, marker::PhantomData};

/// A proxy's stand-in as plain data, for what carries no descriptors: queues in shared memory, a pool's tasks.
///
/// It keeps the object until it is [redeemed](Ticket::redeem), once, or [cancelled](Ticket::cancel), or the process that
/// issued it ends; that process keeps its connection to the server from then on. It holds the manager's key, and
/// what else it takes to connect.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
#[must_use = "the object is kept until the ticket is redeemed or cancelled"]
pub struct Ticket<H> {
    access: Access,
    number: u64,
    proxy: PhantomData<fn() -> H>,
}

impl<H: Hosted> Ticket<H> {
    pub(crate) fn issue(proxy: &Proxy) -> Result<Ticket<H>> {
        const DOING: &str = "issue a ticket";
        let (client, form) = (proxy.client(DOING)?, H::form());
        let request = Request::new(Op::Ticket, 0).u64(proxy.object).u64(form.kind as u64).u64(form.types);
        proxy.site.pin();
        let reply = client.call(DOING, request, None)?;
        let number = Reader::new(&reply.payload).u64().map_err(|error| malformed(DOING, error))?;
        Ok(Ticket { access: proxy.site.access.clone(), number, proxy: PhantomData })
    }

    /// The proxy.
    ///
    /// # Errors
    /// [`ErrorKind::ObjectGone`](crate::ErrorKind) if it was redeemed or cancelled, or who issued it is gone; or if the server
    /// is.
    pub fn redeem(self) -> Result<H> {
        const DOING: &str = "redeem a ticket";
        let site = Site::of(self.access);
        let client = site.client(DOING)?;
        let form = H::form();
        let held = lease::ask(&client, DOING, Request::new(Op::Redeem, 0).u64(self.number), form)?;
        Ok(H::from_proxy(Lease::held(site, held, form)))
    }

    /// Gives it up.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn cancel(self) -> Result<()> {
        let site = Site::of(self.access);
        site.client("cancel a ticket")?.tell(Op::Cancel, 0, |out| put_u64(out, self.number));
        Ok(())
    }
}

impl<H> fmt::Debug for Ticket<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("number", &self.number)
            .field("address", &self.access.address)
            .finish_non_exhaustive()
    }
}
