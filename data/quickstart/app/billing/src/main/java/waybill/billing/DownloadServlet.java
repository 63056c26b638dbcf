package waybill.billing;

import java.io.*;
import javax.servlet.http.*;

public class DownloadServlet extends HttpServlet {
    private static final File INVOICES = new File("/srv/invoices");

    @Override
    protected void doGet(HttpServletRequest req, HttpServletResponse res) throws IOException {
        String name = req.getParameter("name");
        File pdf = new File(INVOICES, name);
        Cookie last = new Cookie("last", name);
        res.addCookie(last);
        try (InputStream in = new FileInputStream(pdf)) {
            in.transferTo(res.getOutputStream());
        }
    }

    protected void doDelete(HttpServletRequest req, HttpServletResponse res) {
        new File(INVOICES, req.getParameter("name")).delete();
    }
}
