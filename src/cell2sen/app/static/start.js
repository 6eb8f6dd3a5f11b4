// Start of the page in a browser.
import { HttpLink } from "./link.js";
import { mount } from "./page.js";

mount(document.getElementById("cell2sen"), new HttpLink());
