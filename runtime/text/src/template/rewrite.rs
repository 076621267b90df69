//! The syntax tree of a template, with what can be costly handed to functions of ours.
//!
//! The engine's own operators build values of any size in one instruction, so its fuel doesn't bound memory:
//! forty times `{% set s = s ~ s %}` is a terabyte, and constants are even folded before anything is counted.
//! Here each such operator becomes a call of a metered function, by a name that no template can write and so
//! none can replace.

use minijinja::machinery::Span;
use minijinja::machinery::ast::{self, BinOpKind, CallArg, Expr, Spanned, Stmt};
use minijinja::{Error, ErrorKind, Value};

/// `left + right`.
pub(crate) const ADD: &str = "(+)";
/// `left * right`.
pub(crate) const MULTIPLY: &str = "(*)";
/// `left ~ right`.
pub(crate) const CONCAT: &str = "(~)";
/// `value[start:stop:step]`.
pub(crate) const SLICE: &str = "(slice)";
/// Gives its argument and charges for reading it.
pub(crate) const TOUCH: &str = "(touch)";
/// Gives its argument and charges for comparing it, with all that it holds.
pub(crate) const READ: &str = "(read)";
/// Gives its argument as a value that holds nothing lazy and isn't too deep.
pub(crate) const SOLID: &str = "(solid)";
/// `{% set target.name = value %}`.
pub(crate) const SET: &str = "(set)";
/// `target.name.append(value)`.
pub(crate) const APPEND: &str = "(append)";
/// `target.name.pop(place)`.
pub(crate) const POP: &str = "(pop)";
/// Where a block's text is kept before it becomes an attribute.
const CAPTURED: &str = "(captured)";

type Result<T> = std::result::Result<T, Error>;

/// The rewritten statement. Errors: a statement that chat templates don't have.
pub(crate) fn statement<'a>(stmt: &Stmt<'a>) -> Result<Stmt<'a>> {
    let mut one = statements(std::slice::from_ref(stmt))?;
    match (one.pop(), one.is_empty()) {
        (Some(stmt), true) => Ok(stmt),
        _ => Err(Error::new(ErrorKind::SyntaxError, "the template isn't one block of statements")),
    }
}

fn statements<'a>(stmts: &[Stmt<'a>]) -> Result<Vec<Stmt<'a>>> {
    let mut out = Vec::with_capacity(stmts.len());
    for stmt in stmts {
        rewrite(stmt, &mut out)?;
    }
    Ok(out)
}

fn rewrite<'a>(stmt: &Stmt<'a>, out: &mut Vec<Stmt<'a>>) -> Result<()> {
    let rewritten = match stmt {
        Stmt::Template(it) => {
            Stmt::Template(Spanned::new(ast::Template { children: statements(&it.children)? }, it.span()))
        }
        Stmt::EmitExpr(it) => emit(expr(&it.expr)?, it.span()),
        Stmt::EmitRaw(it) => emit(constant(Value::from(it.raw), it.span()), it.span()),
        Stmt::ForLoop(it) => {
            let parts = ast::ForLoop {
                target: target(&it.target)?,
                iter: call(TOUCH, vec![expr(&it.iter)?], it.iter.span()),
                filter_expr: optional(&it.filter_expr)?,
                recursive: it.recursive,
                body: statements(&it.body)?,
                else_body: statements(&it.else_body)?,
            };
            Stmt::ForLoop(Spanned::new(parts, it.span()))
        }
        Stmt::IfCond(it) => {
            let (true_body, false_body) = (statements(&it.true_body)?, statements(&it.false_body)?);
            Stmt::IfCond(Spanned::new(
                ast::IfCond { expr: expr(&it.expr)?, true_body, false_body },
                it.span(),
            ))
        }
        Stmt::WithBlock(it) => {
            let pair = |(to, from): &(Expr<'a>, Expr<'a>)| Ok((target(to)?, expr(from)?));
            let assignments = it.assignments.iter().map(pair).collect::<Result<_>>()?;
            Stmt::WithBlock(Spanned::new(
                ast::WithBlock { assignments, body: statements(&it.body)? },
                it.span(),
            ))
        }
        Stmt::Set(it) => match &it.target {
            Expr::GetAttr(attr) => set_attribute(attr, expr(&it.expr)?)?,
            other => {
                Stmt::Set(Spanned::new(ast::Set { target: target(other)?, expr: expr(&it.expr)? }, it.span()))
            }
        },
        Stmt::SetBlock(it) => return set_block(it, out),
        Stmt::FilterBlock(it) => {
            let parts = ast::FilterBlock { filter: expr(&it.filter)?, body: statements(&it.body)? };
            Stmt::FilterBlock(Spanned::new(parts, it.span()))
        }
        Stmt::Macro(it) => Stmt::Macro(definition(it)?),
        Stmt::CallBlock(it) => {
            let call = Spanned::new(call_parts(&it.call)?, it.call.span());
            let parts = ast::CallBlock { call, macro_decl: definition(&it.macro_decl)? };
            Stmt::CallBlock(Spanned::new(parts, it.span()))
        }
        Stmt::Do(it) => {
            let call = Spanned::new(call_parts(&it.call)?, it.call.span());
            Stmt::Do(Spanned::new(ast::Do { call }, it.span()))
        }
        Stmt::Continue(it) => Stmt::Continue(Spanned::new(ast::Continue, it.span())),
        Stmt::Break(it) => Stmt::Break(Spanned::new(ast::Break, it.span())),
        // Chat templates write plain text: there is nothing to escape.
        Stmt::AutoEscape(it) => {
            out.extend(statements(&it.body)?);
            return Ok(());
        }
        Stmt::Block(it) => return Err(foreign("block", it.span())),
        Stmt::Import(it) => return Err(foreign("import", it.span())),
        Stmt::FromImport(it) => return Err(foreign("from", it.span())),
        Stmt::Extends(it) => return Err(foreign("extends", it.span())),
        Stmt::Include(it) => return Err(foreign("include", it.span())),
    };
    out.push(rewritten);
    Ok(())
}

fn foreign(name: &str, span: Span) -> Error {
    let line = span.start_line;
    Error::new(ErrorKind::SyntaxError, format!("line {line}: `{name}` has no place in a chat template"))
}

fn emit<'a>(expr: Expr<'a>, span: Span) -> Stmt<'a> {
    Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr }, span))
}

fn constant<'a>(value: Value, span: Span) -> Expr<'a> {
    Expr::Const(Spanned::new(ast::Const { value }, span))
}

fn variable<'a>(id: &'a str, span: Span) -> Expr<'a> {
    Expr::Var(Spanned::new(ast::Var { id }, span))
}

fn call<'a>(name: &'a str, args: Vec<Expr<'a>>, span: Span) -> Expr<'a> {
    let args = args.into_iter().map(CallArg::Pos).collect();
    Expr::Call(Spanned::new(ast::Call { expr: variable(name, span), args }, span))
}

fn set_attribute<'a>(attr: &Spanned<ast::GetAttr<'a>>, value: Expr<'a>) -> Result<Stmt<'a>> {
    let span = attr.span();
    let args = vec![expr(&attr.expr)?, constant(Value::from(attr.name), span), value];
    let args = args.into_iter().map(CallArg::Pos).collect();
    let call = Spanned::new(ast::Call { expr: variable(SET, span), args }, span);
    Ok(Stmt::Do(Spanned::new(ast::Do { call }, span)))
}

/// `{% set x %}...{% endset %}`.
fn set_block<'a>(it: &Spanned<ast::SetBlock<'a>>, out: &mut Vec<Stmt<'a>>) -> Result<()> {
    let span = it.span();
    let (to, after) = match &it.target {
        Expr::GetAttr(attr) => {
            (variable(CAPTURED, span), Some(set_attribute(attr, variable(CAPTURED, span))?))
        }
        other => (target(other)?, None),
    };
    let parts = ast::SetBlock { target: to, filter: optional(&it.filter)?, body: statements(&it.body)? };
    out.push(Stmt::SetBlock(Spanned::new(parts, span)));
    out.extend(after);
    Ok(())
}

fn definition<'a>(it: &Spanned<ast::Macro<'a>>) -> Result<Spanned<ast::Macro<'a>>> {
    let parts = ast::Macro {
        name: it.name,
        args: it.args.iter().map(target).collect::<Result<_>>()?,
        defaults: it.defaults.iter().map(expr).collect::<Result<_>>()?,
        body: statements(&it.body)?,
    };
    Ok(Spanned::new(parts, it.span()))
}

/// What is assigned to: names, or lists of names.
fn target<'a>(it: &Expr<'a>) -> Result<Expr<'a>> {
    match it {
        Expr::Var(var) => Ok(variable(var.id, var.span())),
        Expr::List(list) => {
            let items = list.items.iter().map(target).collect::<Result<_>>()?;
            Ok(Expr::List(Spanned::new(ast::List { items }, list.span())))
        }
        other => {
            let (line, what) = (other.span().start_line, other.description());
            Err(Error::new(ErrorKind::SyntaxError, format!("line {line}: can't assign to this {what}")))
        }
    }
}

fn optional<'a>(it: &Option<Expr<'a>>) -> Result<Option<Expr<'a>>> {
    it.as_ref().map(expr).transpose()
}

fn arguments<'a>(args: &[CallArg<'a>]) -> Result<Vec<CallArg<'a>>> {
    let one = |arg: &CallArg<'a>| {
        Ok(match arg {
            CallArg::Pos(value) => CallArg::Pos(expr(value)?),
            CallArg::Kwarg(name, value) => CallArg::Kwarg(name, expr(value)?),
            CallArg::PosSplat(value) => CallArg::PosSplat(call(TOUCH, vec![expr(value)?], value.span())),
            CallArg::KwargSplat(value) => CallArg::KwargSplat(call(TOUCH, vec![expr(value)?], value.span())),
        })
    };
    args.iter().map(one).collect()
}

fn call_parts<'a>(it: &ast::Call<'a>) -> Result<ast::Call<'a>> {
    if let Expr::GetAttr(attr) = &it.expr
        && ["changed", "cycle"].contains(&attr.name)
    {
        // Methods of loops: one compares values that nothing has charged for, the other divides by the number
        // of its arguments, which ends the thread where there are none.
        return Err(foreign(attr.name, attr.span()));
    }
    let changed = match &it.args[..] {
        [CallArg::Pos(_)] => changed_list(&it.expr, "append").map(|attr| (APPEND, attr)),
        _ => None,
    };
    let changed = changed.or_else(|| changed_list(&it.expr, "pop").map(|attr| (POP, attr)));
    if let Some((function, attr)) = changed {
        let span = attr.span();
        let mut args =
            vec![CallArg::Pos(expr(&attr.expr)?), CallArg::Pos(constant(Value::from(attr.name), span))];
        args.extend(arguments(&it.args)?);
        return Ok(ast::Call { expr: variable(function, span), args });
    }
    Ok(ast::Call { expr: expr(&it.expr)?, args: arguments(&it.args)? })
}

/// The attribute `target.name` of which `target.name.method` changes the list.
fn changed_list<'e, 'a>(it: &'e Expr<'a>, method: &str) -> Option<&'e Spanned<ast::GetAttr<'a>>> {
    match it {
        Expr::GetAttr(called) if called.name == method => match &called.expr {
            Expr::GetAttr(attr) => Some(attr),
            _ => None,
        },
        _ => None,
    }
}

fn touched<'a>(it: &Expr<'a>) -> Result<Expr<'a>> {
    charged(TOUCH, it)
}

fn read<'a>(it: &Expr<'a>) -> Result<Expr<'a>> {
    charged(READ, it)
}

fn charged<'a>(how: &'a str, it: &Expr<'a>) -> Result<Expr<'a>> {
    Ok(match it {
        Expr::Const(_) => expr(it)?,
        _ => call(how, vec![expr(it)?], it.span()),
    })
}

fn expr<'a>(it: &Expr<'a>) -> Result<Expr<'a>> {
    let span = it.span();
    Ok(match it {
        Expr::Var(var) => variable(var.id, span),
        Expr::Const(value) => constant(value.value.clone(), span),
        Expr::Slice(slice) => {
            let part = |it| optional(it).map(|it| it.unwrap_or_else(|| constant(Value::from(()), span)));
            let (start, stop, step) = (part(&slice.start)?, part(&slice.stop)?, part(&slice.step)?);
            call(SLICE, vec![expr(&slice.expr)?, start, stop, step], span)
        }
        Expr::UnaryOp(op) => {
            let kind = if matches!(op.op, ast::UnaryOpKind::Not) {
                ast::UnaryOpKind::Not
            } else {
                ast::UnaryOpKind::Neg
            };
            Expr::UnaryOp(Spanned::new(ast::UnaryOp { op: kind, expr: expr(&op.expr)? }, span))
        }
        Expr::BinOp(op) => binary(op, span)?,
        Expr::Compare(compare) => {
            let one = |op: &ast::CompareOp<'a>| Ok(ast::CompareOp { op: op.op, expr: read(&op.expr)? });
            let ops = compare.ops.iter().map(one).collect::<Result<_>>()?;
            Expr::Compare(Spanned::new(ast::Compare { expr: read(&compare.expr)?, ops }, span))
        }
        Expr::IfExpr(cond) => {
            let parts = ast::IfExpr {
                test_expr: expr(&cond.test_expr)?,
                true_expr: expr(&cond.true_expr)?,
                false_expr: optional(&cond.false_expr)?,
            };
            Expr::IfExpr(Spanned::new(parts, span))
        }
        Expr::Filter(filter) => {
            let (inner, args) = (optional(&filter.expr)?, arguments(&filter.args)?);
            Expr::Filter(Spanned::new(ast::Filter { name: filter.name, expr: inner, args }, span))
        }
        Expr::Test(test) => {
            let (inner, args) = (expr(&test.expr)?, arguments(&test.args)?);
            Expr::Test(Spanned::new(ast::Test { name: test.name, expr: inner, args }, span))
        }
        Expr::GetAttr(attr) => {
            Expr::GetAttr(Spanned::new(ast::GetAttr { expr: expr(&attr.expr)?, name: attr.name }, span))
        }
        Expr::GetItem(item) => get_item(item, span)?,
        Expr::Call(it) => Expr::Call(Spanned::new(call_parts(it)?, span)),
        Expr::List(list) => {
            let items = list.items.iter().map(expr).collect::<Result<_>>()?;
            call(SOLID, vec![Expr::List(Spanned::new(ast::List { items }, span))], span)
        }
        Expr::Map(map) => {
            let keys = map.keys.iter().map(expr).collect::<Result<_>>()?;
            let values = map.values.iter().map(expr).collect::<Result<_>>()?;
            call(SOLID, vec![Expr::Map(Spanned::new(ast::Map { keys, values }, span))], span)
        }
    })
}

fn binary<'a>(op: &ast::BinOp<'a>, span: Span) -> Result<Expr<'a>> {
    let function = match op.op {
        BinOpKind::Add => Some(ADD),
        BinOpKind::Mul => Some(MULTIPLY),
        BinOpKind::Concat => Some(CONCAT),
        _ => None,
    };
    if let Some(function) = function {
        return Ok(call(function, vec![expr(&op.left)?, expr(&op.right)?], span));
    }
    let reads = matches!(
        op.op,
        BinOpKind::Eq
            | BinOpKind::Ne
            | BinOpKind::Lt
            | BinOpKind::Lte
            | BinOpKind::Gt
            | BinOpKind::Gte
            | BinOpKind::In
    );
    let side = if reads { read } else { expr };
    let parts = ast::BinOp { op: op.op, left: side(&op.left)?, right: side(&op.right)? };
    Ok(Expr::BinOp(Spanned::new(parts, span)))
}

/// `value[key]`: with a key that isn't a constant text, `value` may be a text, whose n-th character takes n
/// steps, and the key a list that is compared.
fn get_item<'a>(item: &ast::GetItem<'a>, span: Span) -> Result<Expr<'a>> {
    let named = matches!(&item.subscript_expr, Expr::Const(key) if key.value.as_str().is_some());
    let inner = if named { expr(&item.expr)? } else { touched(&item.expr)? };
    let parts = ast::GetItem { expr: inner, subscript_expr: read(&item.subscript_expr)? };
    Ok(Expr::GetItem(Spanned::new(parts, span)))
}
