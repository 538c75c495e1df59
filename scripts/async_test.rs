//! `#[async_test]` for redis-rs' tests: its repository has a macro of that name in a crate that is
//! not published. An async function becomes a test on tokio; one that takes a connection is given
//! one to a server of its own, one that takes a flag is run with both values.

use proc_macro::{Delimiter, TokenStream, TokenTree};

#[proc_macro_attribute]
pub fn async_test(_: TokenStream, function: TokenStream) -> TokenStream {
    let tokens: Vec<TokenTree> = function.into_iter().collect();
    let at = tokens
        .iter()
        .position(|token| matches!(token, TokenTree::Ident(word) if word.to_string() == "fn"))
        .expect("a function");
    let text = |tokens: &[TokenTree]| tokens.iter().cloned().collect::<TokenStream>().to_string();
    let attributes = text(&tokens[..at]).replace("async", "");
    let name = &tokens[at + 1];
    let arguments = match &tokens[at + 2] {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis => group.stream(),
        other => panic!("arguments, not {other}"),
    };
    let rest = text(&tokens[at + 3..]);
    let call = if arguments.is_empty() {
        "run().await"
    } else if arguments.to_string().ends_with("bool") {
        "{ run(false).await; run(true).await }"
    } else {
        "{ let context = crate::support::TestContext::new();
           run(context.async_connection().await.unwrap()).await }"
    };
    format!(
        "#[test] {attributes} fn {name}() {{
            async fn run({arguments}) {rest}
            let _ = crate::support::block_on_all(
                async move {{ {call} }}, crate::support::RuntimeType::Tokio);
        }}"
    )
    .parse()
    .expect("a test")
}
