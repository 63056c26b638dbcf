import { pool } from "./db";
import type { Request, Response } from "express";

export async function list(req: Request, res: Response) {
  const rows = await pool.query(`SELECT text FROM comments WHERE parcel = ${req.params.parcel}`);
  res.json(rows.rows);
}

export function render(comments: { author: string; text: string }[], into: HTMLElement) {
  into.innerHTML = "";
  for (const comment of comments) {
    const item = document.createElement("p");
    item.innerHTML = comment.author + ": " + comment.text;
    into.append(item);
  }
}

export function done(req: Request, res: Response) {
  res.redirect(req.query.from as string);
}
