//! Calls as they are handed to a pool, and what their results come to.

use super::{Inner, Task};
use crate::{
    TaskError, Work,
    driver::Shared,
    front::{Body, JobOptions, Segment},
    loads::{self, Loads},
    records,
    tasks::{How, Job},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::VecDeque, sync::Arc};

/// A record.
pub(crate) fn encode<A: Serialize>(shared: &Shared, item: &A) -> Result<Vec<u8>, TaskError> {
    let mut record = Vec::new();
    match records::push(&mut record, |bytes| loads::encode(shared.loads.as_deref(), item, bytes)) {
        Ok(()) => Ok(record),
        Err(records::PushError::Write(why)) => Err(TaskError::BadArguments(why)),
        Err(records::PushError::TooLarge(bytes)) => {
            Err(TaskError::BadArguments(format!("it has {bytes} bytes, encoded")))
        }
    }
}

/// Hands one call to the pool.
pub(crate) fn submit<A, R>(
    shared: &Arc<Shared>,
    work: &Work<A, R>,
    arg: &A,
    how: How,
) -> Result<Task<R>, TaskError>
where
    A: Serialize,
    R: DeserializeOwned + 'static,
{
    let how = How { cancellable: true, ..how };
    let id =
        shared.open(work.callable()?, |function| JobOptions { spontaneous: true, ..how.job(function) })?;
    let job = Job { shared: shared.clone(), id: Some(id) };
    let record = encode(shared, arg)?;
    shared.begin(id, [Ok((1, record))]);
    Ok(Task::new(Inner::new(job, one)))
}

/// Hands one call to the pool and waits for it.
pub(crate) fn apply<A, R>(shared: &Arc<Shared>, work: &Work<A, R>, arg: &A, how: How) -> Result<R, TaskError>
where
    A: Serialize,
    R: DeserializeOwned + 'static,
{
    let id = shared.open(work.callable()?, |function| how.job(function))?;
    let job = Job { shared: shared.clone(), id: Some(id) };
    let record = encode(shared, arg)?;
    let mut state = shared.lock();
    state.front.add(id, 1, record);
    state.front.close_input(id);
    drop(state);
    let mut segment = None;
    shared.wait_until(None, |state| {
        // It may be asked again after it said yes.
        if segment.is_none() {
            segment = state.front.take(id);
        }
        segment.is_some()
    });
    drop(job);
    one(segment.into_iter().collect(), shared.loads.as_deref())
}

/// The value of a call with one item.
fn one<R: DeserializeOwned + 'static>(segments: Vec<Segment>, loads: Option<&Loads>) -> Result<R, TaskError> {
    match segments.into_iter().next().map(|segment| segment.body) {
        Some(Body::Values(values)) => loads::decode_only(loads, values),
        Some(Body::Failed(error)) => Err(error),
        None => Err(TaskError::Terminated),
    }
}

/// The values of a call with many items, or its first error.
pub(crate) fn all<R: DeserializeOwned + 'static>(
    segments: Vec<Segment>,
    loads: Option<&Loads>,
) -> Result<Vec<R>, TaskError> {
    let mut values = Vec::with_capacity(segments.iter().map(|segment| segment.count as usize).sum());
    let mut segments = Unread { segments: segments.into(), loads };
    while let Some(segment) = segments.segments.pop_front() {
        match segment.body {
            Body::Failed(error) => return Err(error),
            Body::Values(records) if segment.count == 1 => values.push(loads::decode_only(loads, records)?),
            Body::Values(records) => {
                let mut rest = &records[..];
                for _ in 0..segment.count {
                    let Some((record, behind)) = records::split(rest) else {
                        let why = "the worker sent fewer results than it said";
                        return Err(TaskError::BadResult(why.to_owned()));
                    };
                    rest = behind;
                    match loads::decode(loads, record) {
                        Ok(value) => values.push(value),
                        Err(error) => {
                            loads.inspect(|loads| loads.let_go(rest));
                            return Err(error);
                        }
                    }
                }
            }
        }
    }
    Ok(values)
}

/// Segments, whose loads are let go of where nobody reads them.
struct Unread<'a> {
    segments: VecDeque<Segment>,
    loads: Option<&'a Loads>,
}

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        let Some(loads) = self.loads else { return };
        for segment in &self.segments {
            if let Body::Values(records) = &segment.body {
                loads.let_go(records);
            }
        }
    }
}
