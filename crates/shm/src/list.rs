//! [`ShareableList`]: a list of simple values that CPython can share.

mod form;
mod item;

use crate::{Error, SharedMemory, error::Cause};
use form::{Broken, Form};
pub use item::Item;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A list of fixed length in a named segment: CPython's `multiprocessing.shared_memory.ShareableList`, in the same
/// layout, byte for byte.
///
/// ```
/// use procession_shm::{Item, ShareableList};
///
/// let ours = ShareableList::create([Item::from("howdy"), Item::from(-273.154), Item::from(42), Item::None])?;
/// let theirs = ShareableList::open(ours.name())?; // in any process, CPython's too
/// theirs.set(2, "bye")?; // another type, in the place of a number
/// assert_eq!(ours.get(2)?, Item::from("bye"));
/// assert_eq!(ours.format()?, "8sd8sxxxxxx?x");
/// assert!(ours.set(0, "too long for the place").unwrap_err().is_too_large());
/// # Ok::<(), procession_shm::Error>(())
/// ```
///
/// Indices are as everywhere in Rust: from 0, and never negative; Python's `list[-1]` is `list.get(list.len() - 1)`.
///
/// # Room
///
/// A place has the room that its first value was given: 8 bytes, for text and bytes the next multiple of 8 beyond their
/// length. A value of any type may take it if it fits. The length of the list never changes.
///
/// # What the layout cannot hold
///
/// * Nothing says how long text or bytes are: NULs at their end are not told from the filling, and CPython loses them
///   silently. Here a value that ends in a NUL is refused.
/// * CPython makes the place of a text by its number of characters, and cuts the encoded text off there: what is not
///   ASCII comes back broken, or fails to decode (gh-145261). Here a place is large enough for the encoded text, and CPython
///   reads that well. What CPython has cut off is an error here.
/// * At most 9,999,999 bytes fit into one place.
///
/// A list that CPython 3.8 has made is laid out otherwise: it is read and written here as well. Ours are those of 3.9
/// and later.
///
/// # Sharing
///
/// There is no lock, as in CPython: a value that is changed while it is read may be a mixture, or an error. Ownership of
/// the name is that of the [`SharedMemory`] in it, and so is what happens when a process dies: a writer that is killed
/// may leave one item of two values' mixture, never a broken list.
pub struct ShareableList {
    shm: SharedMemory,
    form: Form,
}

const CREATE: &str = "create a list in";

impl ShareableList {
    /// Makes a list of these values under a fresh name, and owns it.
    ///
    /// # Errors
    ///
    /// As [`SharedMemory::create`], and where a value cannot be stored: it ends in a NUL, or is too large.
    pub fn create<I>(items: I) -> Result<ShareableList, Error>
    where
        I: IntoIterator<Item: Into<Item>>,
    {
        let items = items.into_iter().map(Into::into).collect();
        ShareableList::make("(a fresh name)", items, |size, fill| SharedMemory::create_with(size, fill))
    }

    /// Makes a list of these values under a name of your own, and owns it.
    ///
    /// # Errors
    ///
    /// As [`create`](ShareableList::create) and [`SharedMemory::create_named`].
    pub fn create_named<I>(name: &str, items: I) -> Result<ShareableList, Error>
    where
        I: IntoIterator<Item: Into<Item>>,
    {
        let items = items.into_iter().map(Into::into).collect();
        ShareableList::make(name, items, |size, fill| SharedMemory::create_named_with(name, size, fill))
    }

    fn make(
        name: &str,
        items: Vec<Item>,
        segment: impl FnOnce(usize, &dyn Fn(&SharedMemory) -> Result<(), Error>) -> Result<SharedMemory, Error>,
    ) -> Result<ShareableList, Error> {
        let fail = |cause| Error::new(CREATE, format!("`{}`", name.escape_debug()), cause);
        let form = Form::of(items.iter().map(form::slot_size)).ok_or_else(|| {
            fail(Cause::Invalid { what: "it would be larger than the address space".to_owned() })
        })?;
        for (index, item) in items.iter().enumerate() {
            check(item, form.slot(index).1).map_err(&fail)?;
        }
        // Before it has its name, so that nobody finds half a list.
        let shm = segment(form.size(), &|shm| {
            let head: Vec<u8> = form.head().flat_map(i64::to_ne_bytes).collect();
            shm.write_at(0, &head)?;
            items.iter().enumerate().try_for_each(|(index, item)| store(shm, &form, index, item))
        })?;
        Ok(ShareableList { shm, form })
    }

    /// Attaches the list of this name. It does not own it.
    ///
    /// # Errors
    ///
    /// As [`SharedMemory::open`], and where the segment holds no list ([`is_incompatible`](Error::is_incompatible)).
    pub fn open(name: &str) -> Result<ShareableList, Error> {
        ShareableList::from_shm(SharedMemory::open(name)?)
    }

    /// Attaches the list of this name, to read only.
    ///
    /// # Errors
    ///
    /// As [`open`](ShareableList::open).
    pub fn open_read_only(name: &str) -> Result<ShareableList, Error> {
        ShareableList::from_shm(SharedMemory::open_read_only(name)?)
    }

    /// The list in a segment.
    ///
    /// # Errors
    ///
    /// The segment holds no list.
    pub fn from_shm(shm: SharedMemory) -> Result<ShareableList, Error> {
        let word = |index: usize| shm.get(index * form::WORD).unwrap_or(-1);
        let form = Form::read(shm.len(), word).map_err(|what| broken("attach a list in", &shm, what))?;
        Ok(ShareableList { shm, form })
    }

    /// The segment that it lies in, with the ownership if this handle had it.
    #[must_use]
    pub fn into_shm(self) -> SharedMemory {
        self.shm
    }

    /// The segment's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shm.name()
    }

    /// The segment that it lies in: to unlink it, to let it persist, to ask who owns it.
    #[must_use]
    pub fn shm(&self) -> &SharedMemory {
        &self.shm
    }

    /// How many items it has. It never changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.form.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at `index`.
    ///
    /// # Errors
    ///
    /// * there is no such place ([`is_out_of_range`](Error::is_out_of_range));
    /// * what lies there is no item ([`is_incompatible`](Error::is_incompatible)): another process has written it.
    pub fn get(&self, index: usize) -> Result<Item, Error> {
        const GET: &str = "read an item of";
        self.check_index(GET, index)?;
        let (offset, slot) = self.form.slot(index);
        let shape = form::shape(self.shm.get(self.form.format(index))?, slot)
            .map_err(|what| broken(GET, &self.shm, what))?;
        let code = self.shm.get(self.form.code(index))?;
        let len = if let form::Shape::Bytes(len) = shape { len } else { form::WORD };
        let mut bytes = vec![0; len];
        self.shm.read_at(offset, &mut bytes)?;
        form::decode(&shape, code, &bytes).map_err(|what| broken(GET, &self.shm, what))
    }

    /// Puts a value, of any type, in the place at `index`.
    ///
    /// # Errors
    ///
    /// Nothing is changed then:
    /// * there is no such place ([`is_out_of_range`](Error::is_out_of_range));
    /// * the value needs more room than the place has ([`is_too_large`](Error::is_too_large)), or ends in a NUL;
    /// * the segment was attached to read only.
    pub fn set(&self, index: usize, value: impl Into<Item>) -> Result<(), Error> {
        const SET: &str = "change an item of";
        self.check_index(SET, index)?;
        let item = value.into();
        check(&item, self.form.slot(index).1)
            .map_err(|cause| Error::new(SET, format!("`{}`", self.name().escape_debug()), cause))?;
        store(&self.shm, &self.form, index, &item)
    }

    fn check_index(&self, operation: &'static str, index: usize) -> Result<(), Error> {
        let len = self.len();
        if index < len {
            return Ok(());
        }
        let object = format!("`{}`", self.name().escape_debug());
        Err(Error::new(operation, object, Cause::OutOfRange { index, len }))
    }

    /// The items, one after the other, as they are when they are reached.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Item, Error>> + DoubleEndedIterator + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Copies all items out.
    ///
    /// # Errors
    ///
    /// As [`get`](ShareableList::get).
    pub fn to_vec(&self) -> Result<Vec<Item>, Error> {
        self.iter().collect()
    }

    /// How many items equal this value.
    ///
    /// # Errors
    ///
    /// As [`get`](ShareableList::get).
    pub fn count(&self, value: impl Into<Item>) -> Result<usize, Error> {
        let value = value.into();
        self.iter().try_fold(0, |count, item| Ok(count + usize::from(item? == value)))
    }

    /// The place of the first item that equals this value.
    ///
    /// # Errors
    ///
    /// As [`get`](ShareableList::get).
    pub fn index(&self, value: impl Into<Item>) -> Result<Option<usize>, Error> {
        let value = value.into();
        for (index, item) in self.iter().enumerate() {
            if item? == value {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// The formats of all items, as Python's `struct` writes them.
    ///
    /// # Errors
    ///
    /// A format is none of a list's.
    pub fn format(&self) -> Result<String, Error> {
        let mut whole = String::new();
        for index in 0..self.len() {
            let format = self.shm.get(self.form.format(index))?;
            form::shape(format, self.form.slot(index).1)
                .map_err(|what| broken("read the format of", &self.shm, what))?;
            whole += &form::text(format);
        }
        Ok(whole)
    }
}

/// Writes a value that was checked.
fn store(shm: &SharedMemory, form: &Form, index: usize, item: &Item) -> Result<(), Error> {
    let (offset, slot) = form.slot(index);
    if let Some((format, code)) = form::format(item, slot) {
        // The value first: a text that is not there yet would be the number's bytes.
        shm.write_at(offset, &form::encode(item, slot))?;
        shm.set(form.format(index), format)?;
        shm.set(form.code(index), code)?;
    }
    Ok(())
}

/// Checks that a value can be stored in a slot of this size.
fn check(item: &Item, slot: usize) -> Result<(), Cause> {
    let Some(bytes) = item.bytes() else { return Ok(()) };
    if bytes.len() > slot {
        return Err(Cause::TooLarge { len: bytes.len(), room: slot });
    }
    if bytes.ends_with(&[0]) {
        let what = "the value ends in a NUL, which a list cannot tell from its filling".to_owned();
        return Err(Cause::Invalid { what });
    }
    if form::format(item, slot).is_none() {
        return Err(Cause::TooLarge { len: bytes.len(), room: 9_999_999 });
    }
    Ok(())
}

fn broken(operation: &'static str, shm: &SharedMemory, what: Broken) -> Error {
    Error::new(operation, format!("`{}`", shm.name().escape_debug()), Cause::Foreign { what })
}

/// As its segment: by name and size, whatever the list holds.
impl Serialize for ShareableList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.shm.serialize(serializer)
    }
}

/// Attaches, as [`ShareableList::open`] does.
impl<'de> Deserialize<'de> for ShareableList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ShareableList, D::Error> {
        ShareableList::from_shm(SharedMemory::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The items and the name, as Python shows them.
impl fmt::Debug for ShareableList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShareableList(")?;
        let mut items = f.debug_list();
        for item in self.iter() {
            match item {
                Ok(item) => items.entry(&item),
                Err(error) => items.entry(&format_args!("<{error}>")),
            };
        }
        items.finish()?;
        write!(f, ", name={:?})", self.name())
    }
}
