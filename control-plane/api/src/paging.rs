//! Pages of lists: their size, and the token of the next one.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proto_model::Digest;
use tonic::Status;

use crate::error;

/// The size of a page where none is asked for.
pub const DEFAULT_PAGE_SIZE: u32 = 50;
/// The largest page; who asks for more gets this many.
pub const MAX_PAGE_SIZE: u32 = 1000;
/// The longest token that is looked at: ours have a name and an id.
const MAX_TOKEN_BYTES: usize = 1024;

/// Which page of which list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many items.
    pub size: u32,
    /// Where it begins: what an earlier page was ended with.
    pub cursor: Option<String>,
    list: &'static str,
    arguments: [u8; 8],
}

impl Page {
    /// Reads what a list request asks for. `list` names the list, and `arguments` (the filter, the order) are those that the token must
    /// have been made for.
    ///
    /// # Errors
    /// The size is negative, or the token is not one of this list with these arguments.
    pub fn parse(list: &'static str, arguments: &str, size: i32, token: &str) -> Result<Self, Status> {
        let size = match u32::try_from(size).map_err(|_negative| error::invalid("page_size", "must not be negative"))? {
            0 => DEFAULT_PAGE_SIZE,
            size => size.min(MAX_PAGE_SIZE),
        };
        let digest = Digest::sha256(arguments.as_bytes());
        let arguments = *digest.as_bytes().first_chunk().expect("a digest has 32 bytes");
        let mut page = Self { size, cursor: None, list, arguments };
        if !token.is_empty() {
            page.cursor = Some(page.open(token).ok_or_else(|| {
                error::invalid("page_token", "is not from an earlier answer to this call with these arguments")
            })?);
        }
        Ok(page)
    }

    /// One more than the page has, so that a further page is noticed.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.size.saturating_add(1)
    }

    /// Cuts what was fetched with [`Self::limit`] to the page, and makes the token of the next page from its last item.
    #[must_use]
    pub fn cut<T>(&self, mut items: Vec<T>, cursor: impl FnOnce(&T) -> String) -> (Vec<T>, String) {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        if items.len() <= size {
            return (items, String::new());
        }
        items.truncate(size);
        let token = items.last().map(|last| self.seal(&cursor(last))).unwrap_or_default();
        (items, token)
    }

    fn seal(&self, cursor: &str) -> String {
        let mut bytes = self.arguments.to_vec();
        bytes.extend_from_slice(format!("{}\0{cursor}", self.list).as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn open(&self, token: &str) -> Option<String> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let text = std::str::from_utf8(bytes.strip_prefix(&self.arguments)?).ok()?;
        let (list, cursor) = text.split_once('\0')?;
        (list == self.list).then(|| cursor.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_only_for_its_own_list_and_arguments() {
        let page = Page::parse("nodes", "a=b", 2, "").unwrap();
        let (items, token) = page.cut(vec![1, 2, 3], ToString::to_string);
        assert_eq!(items, [1, 2]);
        assert_eq!(Page::parse("nodes", "a=b", 0, &token).unwrap().cursor.as_deref(), Some("2"));
        assert!(Page::parse("nodes", "a=c", 0, &token).is_err());
        assert!(Page::parse("transfers", "a=b", 0, &token).is_err());
        assert!(Page::parse("nodes", "a=b", 0, "oops!").is_err());
        assert_eq!(page.cut(vec![1, 2], ToString::to_string).1, "");
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(Page::parse("x", "", 0, "").unwrap().size, DEFAULT_PAGE_SIZE);
        assert_eq!(Page::parse("x", "", i32::MAX, "").unwrap().size, MAX_PAGE_SIZE);
        assert!(Page::parse("x", "", -1, "").is_err());
    }
}
